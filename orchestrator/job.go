package orchestrator

import (
	"context"
	"crypto/rand"
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

// A Job is one that has begun.
type Job struct {
	id     string
	reader *joblog.Reader // nil: it has no log
	cancel context.CancelCauseFunc
	ended  chan struct{}
	node   *node                   // on which it runs; nil while it waits; guarded by the builder, as is lose
	lose   context.CancelCauseFunc // ends what runs there
	last   schemas.Message         // once it has ended
}

// Start starts a job that a client at an address has sent. It ends when ctx does. Its caller has a place;
// see Acquire. Wait must be called.
func (b *Builder) Start(ctx context.Context, request *schemas.Request, client string) *Job {
	return b.start(ctx, request, client, func() {})
}

// Submit starts a job that nobody need wait for, and returns its id; or the answer to whoever sent it:
// that all places are taken, or why the job has ended at once.
func (b *Builder) Submit(request *schemas.Request, client string) (id string, refusal *schemas.Response) {
	release, ok := b.Acquire()
	if !ok {
		busy := schemas.Busy()
		return "", &busy
	}
	job := b.start(context.Background(), request, client, release)
	if job.reader == nil {
		return "", job.Wait().Response
	}
	job.reader.Close() // others follow it
	return job.id, nil
}

// start starts a job, and calls release when it needs its place no longer.
func (b *Builder) start(ctx context.Context, request *schemas.Request, client string, release func()) *Job {
	ctx, cancel := context.WithCancelCause(ctx)
	j := &Job{id: strings.ToLower(rand.Text()), cancel: cancel, ended: make(chan struct{})}
	redactor := redact.New(secretsOf(request, b.options)...)
	log := slog.New(redactor.Handler(b.log.Handler())).With("job", j.id)
	record := b.newRecorder(j.id, client, request, redactor, log)
	r := &run{b: b, id: j.id, request: request, log: log, tracker: newTracker()}
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
	ticket := b.queue.Join(b.needOf(request))
	r.release = func() {
		ticket.Leave()
		release()
	}
	record.begin(ticket.Node() != nil)
	b.mu.Lock()
	b.running[j.id] = j
	b.mu.Unlock()
	b.background.Go(func() {
		defer close(j.ended)
		defer cancel(nil)
		j.last = r.toEnd(ctx, ticket, record)
		b.mu.Lock()
		delete(b.running, j.id)
		b.changed.Broadcast()
		b.mu.Unlock()
		lines.Close()
		b.prune(log)
	})
	return j
}

// needOf returns what a job needs of its node: its platform, and the store of its repository, if jobs of one
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

// withoutLog is how a job ends that has no log.
func (r *run) withoutLog(err error) schemas.Message {
	verdict := r.tracker.close(Verdict{Err: logFailure(err)})
	r.b.ended(verdict, r.log)
	response := verdict.Response()
	return schemas.Message{Time: time.Now(), Response: &response, Event: schemas.AppendEvent(nil, verdict.Event())}
}

// toEnd runs the job when it has a slot, and keeps its log and its record.
func (r *run) toEnd(ctx context.Context, ticket *nodes.Ticket, record *recorder) schemas.Message {
	b := r.b
	page := b.pageOf(r.id)
	r.lines.Respond(schemas.Accepted(), schemas.JobEvent{ID: r.id, URL: page})
	r.say(strings.TrimSpace("job " + r.id + " " + page))
	for _, property := range shownProperties(r.request) {
		r.say("warning: the command line holds a secret, which other programs of the job can read; use " + property)
	}
	verdict := r.tracker.close(r.inTurn(ctx, ticket, record))
	r.release()
	if verdict.Reason() != "" {
		verdict.lastLine = r.lines.LastLine()
		r.say("failed: " + verdict.explanation()) // some clients show lines, and lose a last message
	}
	b.ended(verdict, r.log)
	record.end(verdict, r.lines.Lines()) // before somebody is told, who may ask for it
	last := r.lines.Respond(verdict.Response(), verdict.Event())
	r.lines.Complete()
	return last
}

// maxMisses is how many nodes a job may have that do not answer before it begins.
const maxMisses = 4

// inTurn runs the job when it has a slot, and waits for another if nothing of it has run for want of the node.
func (r *run) inTurn(ctx context.Context, ticket *nodes.Ticket, record *recorder) Verdict {
	for misses := 1; ; misses++ {
		slots, err := ticket.Wait(ctx, r.waits)
		if err != nil {
			return Verdict{Err: cancelled(err)}
		}
		verdict := r.inTime(ctx, slots, ticket, record)
		if !r.isLost(verdict) || r.started || misses == maxMisses {
			return verdict
		}
		r.again(ticket, 0, "node "+r.node.name+" does not answer: the job waits for a slot again")
	}
}

// inTime runs the job on a node of which it has a slot, and once more if that is lost.
func (r *run) inTime(ctx context.Context, slots *nodes.Node, ticket *nodes.Ticket, record *recorder) Verdict {
	ctx, stop := r.b.options.Deadlines.bound(ctx)
	defer stop()
	verdict := r.onNode(ctx, slots, record)
	if !r.b.options.RetryLost || !r.started || r.hasRun || !r.isLost(verdict) {
		return verdict
	}
	r.started, r.hasRun = false, true
	// What runs on the node that is lost, which nobody can ask, ends by itself.
	r.again(ticket, jobenv.Outlives, fmt.Sprintf("node %s is lost: the job runs once more, on another node if there is one, when what runs there has ended by itself (%s)",
		r.node.name, jobenv.Outlives))
	slots, err := ticket.Wait(ctx, r.waits)
	if err != nil {
		return Verdict{Err: cancelled(err)}
	}
	return r.onNode(ctx, slots, record)
}

// onNode runs the job on a node of which it has a slot.
func (r *run) onNode(ctx context.Context, slots *nodes.Node, record *recorder) Verdict {
	ctx, leave := r.b.place(ctx, r, slots)
	defer leave()
	record.start(r.node.name)
	r.tracker.runsOn(r.node.machine())
	if r.node.cluster != nil {
		r.say("on node " + r.node.name)
		r.tracker.event(schemas.NodeEvent{Name: r.node.name})
	}
	return r.do(ctx)
}

// isLost reports whether a job has ended because its node is lost.
func (r *run) isLost(verdict Verdict) bool {
	return r.node.cluster != nil && verdict.End() == jobend.EngineGone
}

// again has the job wait for a slot once more, from a time on, and says why.
func (r *run) again(ticket *nodes.Ticket, after time.Duration, why string) {
	r.log.Info("the job's node is lost: the job waits for another slot", "node", r.node.name, "after", after)
	r.say(why)
	r.tracker.again(r.node.name)
	r.withoutStore = false
	r.slot++
	ticket.Again(after)
}

// waits says how many jobs in the line are before the job.
func (r *run) waits(ahead int) {
	r.tracker.waits(ahead)
	switch ahead {
	case 0:
		r.say("waiting for a free slot, next in line")
	case 1:
		r.say("waiting for a free slot, 1 job ahead")
	default:
		r.say(fmt.Sprintf("waiting for a free slot, %d jobs ahead", ahead))
	}
}

// pageOf returns the address of a job's page, or "".
func (b *Builder) pageOf(job string) string {
	if b.options.PublicURL == "" {
		return ""
	}
	return b.options.PublicURL + "/jobs/" + job
}

// ended tells all but the client of a verdict.
func (b *Builder) ended(verdict Verdict, log *slog.Logger) {
	verdict.log(log)
	b.options.Observer.JobEnded(verdict.Event())
}

// logFailure says that a job ends because its log cannot be kept.
func logFailure(err error) error {
	return &engine.Failure{Cause: err, What: "The builder cannot keep the job's log.",
		Advice: "Make room on the disk of its folder for logs (IGLU_STATE_DIR), and send the job again."}
}

// ID returns the job's id, which is unique.
func (j *Job) ID() string { return j.id }

// Follow writes the job's lines to out as they appear, in writes of one or more whole lines, each
// ended by a line feed; or all of its messages, if out is a schemas.MessageWriter. It returns nil when
// the job has ended and all is written, and else why not: out has failed, or ctx has ended. A slow
// out does not slow the job down.
func (j *Job) Follow(ctx context.Context, out io.Writer) error {
	if j.reader == nil {
		return nil
	}
	if out, ok := out.(schemas.MessageWriter); ok {
		return j.reader.FollowMessages(ctx, 1, out.WriteMessages)
	}
	return j.reader.Follow(ctx, 0, out)
}

// Cancel ends the job, for a cause that is a jobend.End or an engine.Failure.
func (j *Job) Cancel(cause error) { j.cancel(cause) }

// Wait returns the job's last message when the job has ended. Nobody may follow it any more. The
// message has no number if the job has no log in which it could stand.
func (j *Job) Wait() schemas.Message {
	<-j.ended
	if j.reader != nil {
		j.reader.Close()
	}
	return j.last
}

// Cancel ends a job, if it runs, because somebody wanted it on the builder's page. Its client
// is told so.
func (b *Builder) Cancel(job string) (runs bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	j, runs := b.running[job]
	if runs {
		j.Cancel(&engine.Failure{End: jobend.Cancelled, What: wasCancelled, Advice: "Somebody cancelled it on the builder's page."})
	}
	return runs
}
