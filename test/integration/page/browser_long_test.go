//go:build integration && long

package page

import (
	_ "embed"
)

// longestTask returns for how long the page was held up at most since it was last asked, in ms.
func (b *tab) longestTask() float64 {
	b.t.Helper()
	return eval[float64](b, `new Promise((done) => setTimeout(done, 100)) // till the browser has told of the last
		.then(() => Math.max(0, ...longTasks.splice(0)))`)
}

// pace is how long an empty page takes for a known piece of work, in ms: the median of some
// goes, after others that let a browser that has just begun be done with itself.
const pace = `Array.from({ length: 24 }, () => {
	const box = document.createElement("div");
	const begun = performance.now();
	box.innerHTML = "<p>some <b>words</b></p>".repeat(3000);
	document.body.append(box);
	box.offsetHeight; // has it laid out
	box.remove();
	return performance.now() - begun;
}).slice(-9).sort((a, b) => a - b)[4]`

// usualPace is what that comes to where bounds in milliseconds are meant as they stand.
const usualPace = 40

// slower returns how many times as long as usual the browser takes, at least 1: machines
// differ, and others keep them busy. The tab is to be empty.
func (b *tab) slower() float64 {
	b.t.Helper()
	return max(1, eval[float64](b, pace)/usualPace)
}
