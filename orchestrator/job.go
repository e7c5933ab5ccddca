package orchestrator

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"iglu.sh/builder/internal/jobend"
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/joblog"
	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/nodes"
	"iglu.sh/builder/orchestrator/stores"
	"iglu.sh/builder/schemas"
)

// A Job is a job that the builder has accepted. It may still wait for a slot.
type Job struct {
	id     string
	reader *joblog.Reader          // nil: it has no log
	cancel context.CancelCauseFunc // the cause is a jobend.End or an engine.Failure
	ended  chan struct{}
	node   *node                   // where it runs; nil while it waits; guarded by the builder's mu, as is lose
	lose   context.CancelCauseFunc // ends the run on node, because node is lost
	last   schemas.Message         // the last message; set when it has ended
}

// Start starts a job. client is the address of the client that has sent it. The job is cancelled when ctx ends. The caller
// must have called Acquire, which has returned release, and must call Wait. Start calls release when the job has ended, even
// if its log is still being read.
func (b *Builder) Start(ctx context.Context, request *schemas.Request, client string, release func()) *Job {
	ctx, cancel := context.WithCancelCause(ctx)
	j := &Job{id: strings.ToLower(rand.Text()), cancel: cancel, ended: make(chan struct{})}
	redactor := redact.New(secretsOf(request, b.options)...)
	log := slog.New(redactor.Handler(b.log.Handler())).With("job", j.id)
	record := b.newRecorder(j.id, client, request, redactor, log)
	r := &run{b: b, id: j.id, request: request, log: log, redactor: redactor, tracker: newTracker()}
	lines, err := b.logs.Create(j.id, redactor)
	if err == nil {
		if j.reader, err = b.logs.Reader(j.id); err != nil {
			lines.Close()
		}
	}
	if err != nil {
		release()
		j.last = r.withoutLog(err)
		cancel(nil)
		close(j.ended)
		return j
	}
	r.lines, r.tracker.lines = lines, lines
	b.mu.Lock()
	b.running[j.id] = j
	b.mu.Unlock()
	need := b.needOf(request)
	ticket := b.queue.Join(need)
	r.release = func() {
		ticket.Leave()
		release()
	}
	record.begin(ticket.Node() != nil)
	b.background.Go(func() {
		defer close(j.ended)
		defer cancel(nil)
		j.last = r.toEnd(ctx, need, ticket, record)
		b.mu.Lock()
		delete(b.running, j.id)
		b.changed.Broadcast()
		b.mu.Unlock()
		lines.Close()
		b.prune(log)
	})
	return j
}

// Submit starts a job that does not depend on a connection, and returns its id. Otherwise it returns the answer to
// the client: the builder is busy, or the reason why the job could not be started.
func (b *Builder) Submit(request *schemas.Request, client string) (id string, refusal *schemas.Response) {
	release, ok := b.Acquire()
	if !ok {
		busy := schemas.Busy()
		return "", &busy
	}
	job := b.Start(context.Background(), request, client, release)
	if job.reader == nil {
		return "", job.Wait().Response
	}
	job.reader.Close() // this one is not used: nobody calls Follow
	return job.id, nil
}

// needOf returns what a job needs on its node: its platform, and the store of its repository, if its jobs
// share it.
func (b *Builder) needOf(request *schemas.Request) (need nodes.Need) {
	if b.cluster != nil {
		need.Platform = b.cluster.platformFor(request.Arch)
	}
	if b.options.Stores.Mode == stores.Repository && !request.Git.NoClone {
		need.Home = request.Git.Repository
	}
	return need
}

// withoutLog ends a job whose log cannot be created, and returns its last message.
func (r *run) withoutLog(err error) schemas.Message {
	verdict := r.tracker.close(Verdict{Err: logFailure(err)})
	r.b.ended(verdict, r.log)
	response := verdict.Response()
	return schemas.Message{Time: time.Now(), Response: &response, Event: schemas.AppendEvent(nil, verdict.Event())}
}

// toEnd waits for a slot, runs the job, and completes its log and its record. It returns the last message.
func (r *run) toEnd(ctx context.Context, need nodes.Need, ticket *nodes.Ticket, record *recorder) schemas.Message {
	b := r.b
	page := b.pageOf(r.id)
	r.lines.Respond(schemas.Accepted(), schemas.JobEvent{ID: r.id, URL: page})
	r.say(strings.TrimSpace("job " + r.id + " " + page))
	for _, property := range shownProperties(r.request) {
		r.say("warning: the command line holds a secret, which other programs of the job can read; use " + property)
	}
	if b.cluster != nil {
		r.sayIfNoNode(need.Platform)
	}
	ended := r.inTurn(ctx, ticket, record)
	if err := r.lines.Failed(); err != nil && ended.Err != nil { // for example because nobody could follow the job any more
		ended = Verdict{Err: logFailure(err)}
	}
	verdict := r.tracker.close(ended)
	r.release()
	if verdict.Reason() != "" {
		verdict.lastLine = r.lines.LastLine()
		r.say("failed: " + verdict.explanation()) // some clients show lines, but not the last message
	}
	b.ended(verdict, r.log)
	record.end(verdict, r.lines.Lines()) // before the last message: its reader may request the record
	last := r.lines.Respond(verdict.Response(), verdict.Event())
	r.lines.Complete()
	return last
}

// sayIfNoNode says that no node can run jobs of a platform now, if that is so.
func (r *run) sayIfNoNode(platform string) {
	why := "can run jobs now"
	switch c := r.b.cluster; {
	case !c.hasPlatform(platform):
		why = "is known"
	case c.runs(platform):
		return
	}
	r.say("no node for " + platform + " " + why + ": the job waits for one")
	r.log.Warn("a job waits: no node for its platform "+why, "platform", platform)
}

// maxMisses is how many nodes a job may have on which it cannot begin.
const maxMisses = 4

// inTurn runs the job when it has a slot. If its node is lost, or its engine fails, the job runs again on another one: before
// anything has run, on maxMisses nodes in all, and after that once, if the node is lost and RetryLost is set. The deadline
// counts from the first slot on whose node something has run, or may have.
func (r *run) inTurn(ctx context.Context, ticket *nodes.Ticket, record *recorder) Verdict {
	bounded, stop := ctx, func() {}
	defer func() { stop() }()
	for misses := 1; ; {
		slots, err := ticket.Wait(bounded, r.waits)
		if err != nil {
			return Verdict{Err: cancelled(err)}
		}
		if !r.hasRun {
			bounded, stop = r.b.options.Deadlines.bound(ctx)
		}
		verdict := r.onNode(bounded, slots, record)
		mayMiss := !r.started && misses < maxMisses
		switch {
		case mayMiss && r.isLost(verdict):
			misses++
			r.again(ticket, record, 0, "node "+r.node.name+" does not answer: the job waits for a slot again", verdict)
		case mayMiss && r.isOfNode(verdict) && ticket.HasOther(): // such as a full disk
			misses++
			r.again(ticket, record, 0, lowerFirst(problem(verdict.Err))+" The job waits for a slot of another node", verdict)
		case r.isLost(verdict) && r.started && !r.hasRun && r.b.options.RetryLost:
			r.started, r.hasRun = false, true
			// What runs on the node that is lost, which nobody can ask, ends by itself.
			r.again(ticket, record, jobenv.Outlives, fmt.Sprintf("node %s is lost: the job runs once more, on another node if there is one, when what runs there has ended by itself (%s)",
				r.node.name, jobenv.Outlives), verdict)
		default:
			return verdict
		}
		if !r.hasRun { // the time that it waits for the next slot does not count
			stop()
			bounded = ctx
		}
	}
}

// onNode runs the job on a node where it has a slot.
func (r *run) onNode(ctx context.Context, slots *nodes.Node, record *recorder) Verdict {
	ctx, leave := r.b.place(ctx, r, slots)
	defer leave()
	record.start(r.node.name)
	r.tracker.runsOn(r.node.machine())
	if r.node.cluster != nil {
		r.say("on node " + r.node.name)
		r.tracker.event(schemas.NodeEvent{Name: r.node.name})
	} else {
		r.awaitEngine(ctx)
	}
	return r.do(ctx)
}

const (
	// engineWait is how long the jobs of the queue wait for an engine that does not answer, all together. It is
	// longer than an engine needs to start again after an upgrade.
	engineWait = 2 * time.Minute
	// engineInterval is how often such an engine is asked.
	engineInterval = time.Second
)

// awaitEngine lets a job that has waited in the queue wait for the builder's one engine, too. Otherwise a restart of the
// engine would end all jobs of the queue, one after the other, within a second. It returns when the engine answers or has
// not answered for engineWait. A job that has not waited does not wait now: its client gets the reason at once.
func (r *run) awaitEngine(ctx context.Context) {
	for said := false; r.hasWaited && r.node.mayAnswer(ctx); said = true {
		if !said {
			r.say("the container engine does not answer: the job waits for it")
		}
		select {
		case <-time.After(engineInterval):
		case <-ctx.Done():
			return
		}
	}
}

// isLost reports whether a job has ended because its node is lost.
func (r *run) isLost(verdict Verdict) bool {
	return r.node.cluster != nil && verdict.End() == jobend.EngineGone
}

// isOfNode reports whether a job has ended because a call of its node's engine has failed.
func (r *run) isOfNode(verdict Verdict) bool {
	f, ok := errors.AsType[*engine.Failure](verdict.Err)
	return ok && f.Call != "" && r.node.cluster != nil
}

// again makes the job wait for a slot once more, not before after has passed. It says why, and logs how the job would have
// ended.
func (r *run) again(ticket *nodes.Ticket, record *recorder, after time.Duration, why string, instead Verdict) {
	r.log.Warn("the job's node has failed: the job waits for another slot", "node", r.node.name, "after", after, "err", instead.Err)
	r.say(why)
	record.wait()
	r.tracker.again(r.node.name)
	r.withoutStore = false
	r.slot++
	ticket.Again(after)
}

// waits reports how many jobs in the queue are before the job.
func (r *run) waits(ahead int) {
	r.hasWaited = true
	r.tracker.waits(ahead)
	jobs := fmt.Sprintf("%d jobs", ahead)
	switch ahead {
	case 0:
		jobs = "no job"
	case 1:
		jobs = "1 job"
	}
	r.lines.Note("iglu: waiting for a free slot, " + jobs + " ahead")
	r.redactor.Shrink() // a thousand jobs can wait
}

// pageOf returns the address of a job's page, or "".
func (b *Builder) pageOf(job string) string {
	if b.options.PublicURL == "" {
		return ""
	}
	return b.options.PublicURL + "/jobs/" + job
}

// ended reports a verdict to the log and the metrics.
func (b *Builder) ended(verdict Verdict, log *slog.Logger) {
	verdict.log(log)
	b.options.Observer.JobEnded(verdict.Event())
}

// logFailure returns the failure of a job that ends because its log cannot be written.
func logFailure(err error) error {
	return &engine.Failure{Cause: err, What: "The builder cannot keep the job's log.",
		Advice: "Make room on the disk of its folder for logs (IGLU_STATE_DIR), and send the job again."}
}

// Follow writes the job's lines to out as they appear. Each write has one or more whole lines, each with a line feed.
// If out is a schemas.MessageWriter, Follow writes all messages instead. It returns nil when the job has ended and
// everything is written, and otherwise an error: out has failed, or ctx has ended. A slow out does not delay the job.
func (j *Job) Follow(ctx context.Context, out io.Writer) error {
	if j.reader == nil {
		return nil
	}
	if out, ok := out.(schemas.MessageWriter); ok {
		return j.reader.FollowMessages(ctx, 1, out.WriteMessages)
	}
	return j.reader.Follow(ctx, 0, out)
}

// Wait waits until the job has ended, and returns its last message. Follow must not be called any more. The message
// has the number 0 if the job has no log.
func (j *Job) Wait() schemas.Message {
	<-j.ended
	if j.reader != nil {
		j.reader.Close()
	}
	return j.last
}

// Cancel cancels a job for a user of the builder's page or API. The job's client gets a message that says so. Cancel
// reports whether the job had not ended.
func (b *Builder) Cancel(job string) (runs bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	j, runs := b.running[job]
	if runs {
		j.cancel(&engine.Failure{End: jobend.Cancelled, What: wasCancelled, Advice: "Somebody cancelled it, on the page or with 'iglu-builder cancel'."})
	}
	return runs
}
