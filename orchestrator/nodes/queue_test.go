package nodes

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"iglu.sh/builder/internal/jobend"
)

// TestOnlyMovedJobsWake counts which of the jobs that wait are notified: those whose place has changed. A queue can have
// 1000 of them, and each one wakes a goroutine.
func TestOnlyMovedJobsWake(t *testing.T) {
	const waiting = 100
	q := NewQueue(waiting)
	q.Up(&Node{Slots: 1})
	running := q.Join(Need{})
	var all []*Ticket
	woken := func() (count int) {
		for _, ticket := range all {
			select {
			case <-ticket.moved:
				count++
			default:
			}
		}
		return count
	}
	total := 0
	for range waiting {
		all = append(all, q.Join(Need{}))
		total += woken()
	}
	if total > waiting { // the first one's place is 0 from the start
		t.Errorf("%d jobs were notified while %d joined", total, waiting)
	}
	for n, ticket := range all {
		if _, ahead, _ := ticket.look(); ahead != n {
			t.Errorf("before job %d are %d", n, ahead)
		}
	}
	middle := all[waiting/2]
	all = slices.Delete(all, waiting/2, waiting/2+1)
	middle.Leave()
	if got := woken(); got != waiting/2-1 {
		t.Errorf("%d jobs were notified when one in the middle left", got)
	}
	running.Leave()
	if got := woken(); got != len(all) {
		t.Errorf("%d of %d jobs were notified when one of them got a slot", got, len(all))
	}
	q.Close()
	if got := woken(); got != len(all)-1 {
		t.Errorf("%d of the %d jobs that wait were notified of the queue's end", got, len(all)-1)
	}
}

// TestQueueAtRandom sends 10,000 jobs at random times. Some of them give up. No job waits while a slot is free, no
// more jobs run than there are slots, and the jobs that wait get slots in the order of their arrival.
func TestQueueAtRandom(t *testing.T) {
	for _, slots := range []int{1, 2, 7} {
		t.Run(fmt.Sprint(slots, " slots"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { queueAtRandom(t, slots, rand.New(rand.NewPCG(uint64(slots), 0))) })
		})
	}
}

func queueAtRandom(t *testing.T, slots int, r *rand.Rand) {
	const jobs = 10_000
	q := NewQueue(0)
	q.Up(&Node{Slots: slots})
	begun := make([]time.Time, jobs) // zero: it gave up
	for n := range jobs {
		time.Sleep(time.Duration(r.IntN(2000/slots)) * time.Millisecond)
		takes, timeout := time.Duration(r.IntN(2000))*time.Millisecond, time.Duration(1+r.IntN(60))*time.Second
		ticket := q.Join(Need{})
		go func() {
			defer ticket.Leave()
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			if _, err := ticket.Wait(ctx, func(int) {}); err == nil {
				begun[n] = time.Now()
				time.Sleep(takes)
			}
		}()
		synctest.Wait()
		if running, waiting := q.Load(); running > slots || waiting > 0 && running < slots {
			t.Fatalf("after job %d: %d jobs run and %d wait, with %d slots", n, running, waiting, slots)
		}
	}
	time.Sleep(time.Hour)
	if running, waiting := q.Load(); running+waiting > 0 {
		t.Fatalf("at the end %d jobs run and %d wait", running, waiting)
	}
	var latest time.Time
	gaveUp := 0
	for n, at := range begun {
		switch {
		case at.IsZero():
			gaveUp++
		case at.Before(latest):
			t.Fatalf("job %d had its turn after a later one", n)
		default:
			latest = at
		}
	}
	if gaveUp == 0 || gaveUp > jobs/2 {
		t.Errorf("%d of %d jobs gave up", gaveUp, jobs)
	}
}

// TestPlaces checks that each waiting job gets the number of jobs before it whenever that changes.
func TestPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(0)
		q.Up(&Node{Slots: 1})
		reports := make([][]int, 4)
		tickets := make([]*Ticket, 4)
		ended := make([]error, 4)
		gone := errors.New("gone")
		ctx, giveUp := context.WithCancelCause(t.Context())
		for n := range tickets {
			tickets[n] = q.Join(Need{})
			ctx := ctx
			if n != 1 {
				ctx = t.Context()
			}
			go func() { _, ended[n] = tickets[n].Wait(ctx, func(ahead int) { reports[n] = append(reports[n], ahead) }) }()
		}
		synctest.Wait()
		giveUp(gone)
		synctest.Wait()
		tickets[1].Leave()
		tickets[1].Leave() // leaving twice gives nothing twice
		synctest.Wait()
		tickets[0].Leave()
		tickets[0].Leave()
		synctest.Wait()
		if got, want := fmt.Sprint(reports), "[[] [0] [1 0] [2 1 0]]"; got != want {
			t.Errorf("they got %s, want %s", got, want)
		}
		if running, waiting := q.Load(); running != 1 || waiting != 1 {
			t.Errorf("%d run and %d wait", running, waiting)
		}
		q.Close()
		synctest.Wait()
		if want := []error{nil, gone, nil, jobend.Shutdown}; !slices.Equal(ended, want) {
			t.Errorf("they ended with %v, want %v", ended, want)
		}
		if _, err := q.Join(Need{}).Wait(t.Context(), func(int) {}); err != jobend.Shutdown {
			t.Errorf("a job that joins after the end gets %v", err)
		}
	})
}

// TestAdmit admits as many jobs as have slots on nodes that are up, or room to wait.
func TestAdmit(t *testing.T) {
	q := NewQueue(2)
	admit := func(want int) (leave func()) {
		t.Helper()
		for n := 0; ; n++ {
			left, ok := q.Admit()
			if !ok {
				if n != want {
					t.Errorf("%d are let in, want %d", n, want)
				}
				return leave
			}
			leave = left
		}
	}
	admit(2)
	one, two := &Node{Slots: 1}, &Node{Slots: 3}
	q.Up(one)
	q.Up(two)
	leave := admit(4)
	leave()
	leave()
	admit(1)
	q.Down(two)
	admit(0)
	q.Up(two)
	admit(0)
}

// TestAdmitBesideDown takes a node down while it runs jobs. These jobs do not use up the room for other jobs.
func TestAdmitBesideDown(t *testing.T) {
	q := NewQueue(0)
	one, two := &Node{Slots: 1}, &Node{Slots: 1}
	q.Up(one)
	q.Up(two)
	q.Admit()
	q.Join(Need{})
	q.Down(one)
	if _, ok := q.Admit(); !ok {
		t.Error("with a free slot, nobody is let in")
	}
	if _, ok := q.Admit(); ok {
		t.Error("without a free slot, one is let in")
	}
}
