package orchestrator

import (
	"cmp"
	"encoding/json"
	"log/slog"
	"time"

	"iglu.sh/builder/internal/history"
	"iglu.sh/builder/internal/redact"
	"iglu.sh/builder/schemas"
)

// Records stores the records of jobs.
type Records interface {
	// Put stores a record. It replaces the job's previous record, if there is one.
	Put(history.Record) error
	// Prune removes the records of ended jobs for which keep returns false.
	Prune(keep func(job string) bool) error
}

// A recorder writes one job's record. If that fails, it logs a warning, and the job continues.
type recorder struct {
	records  Records
	redactor *redact.Redactor
	log      *slog.Logger
	record   history.Record
	before   history.Record // what it was when the job lost its slot; empty if it has not
}

// newRecorder returns the recorder of a job. It does not store the record yet.
func (b *Builder) newRecorder(job, client string, request *schemas.Request, redactor *redact.Redactor, log *slog.Logger) *recorder {
	r := &recorder{records: b.records, redactor: redactor, log: log}
	r.record = history.Record{
		Job:     job,
		Client:  client,
		Branch:  redactor.String(request.Git.Branch),
		Command: redactor.String(request.BuildOptions.Command),
		Begun:   time.Now().UTC(),
		Secrets: request.SecretNames(),
	}
	if !request.Git.NoClone {
		r.record.Repository = redactor.String(history.WithoutUser(request.Git.Repository))
	}
	r.record.Request = r.public(request)
	return r
}

// begin records that the job has a slot, or waits for one.
func (r *recorder) begin(hasSlot bool) {
	if hasSlot {
		r.record.Started = r.record.Begun
	} else {
		r.logAs("job waits")
	}
	r.put()
}

// start records when the job got its first slot, and on which node it runs now. node is "" without a cluster.
func (r *recorder) start(node string) {
	started := cmp.Or(r.record.Started, r.before.Started, time.Now().UTC())
	changed := started != r.record.Started || node != r.record.Node
	r.record.Started, r.record.Node = started, node
	r.logAs("job started")
	if changed {
		r.put()
	}
}

// wait records that the job waits for a slot again, because its node has failed.
func (r *recorder) wait() {
	r.before = r.record
	r.record.Started, r.record.Node = time.Time{}, ""
	r.put()
}

// public returns a request as JSON without secrets, or nil if that fails.
func (r *recorder) public(request *schemas.Request) json.RawMessage {
	text, err := json.Marshal(request.Public())
	var value any
	if err == nil {
		err = json.Unmarshal(text, &value)
	}
	if err == nil {
		text, err = json.Marshal(r.masked(value)) // masked before it is JSON, where a secret would be escaped
	}
	if err != nil {
		r.log.Warn("cannot store the job's request in its record", "err", err)
		return nil
	}
	return text
}

// masked returns a JSON value with the secrets in its strings masked.
func (r *recorder) masked(value any) any {
	switch value := value.(type) {
	case string:
		return r.redactor.String(value)
	case []any:
		for i := range value {
			value[i] = r.masked(value[i])
		}
	case map[string]any:
		for name := range value {
			value[name] = r.masked(value[name])
		}
	}
	return value
}

// logAs writes a message about the job to the server's log.
func (r *recorder) logAs(message string) {
	var args []any
	for _, field := range []struct{ key, value string }{
		{"repository", r.record.Repository}, {"branch", r.record.Branch}, {"command", r.record.Command}, {"client", r.record.Client}, {"node", r.record.Node},
	} {
		if field.value != "" {
			args = append(args, field.key, field.value)
		}
	}
	r.log.Info(message, args...)
}

// end records how the job has ended, and how many lines its log has.
func (r *recorder) end(verdict Verdict, lines int64) {
	if r.record.Started.IsZero() { // it has not got another slot
		r.record.Started, r.record.Node = r.before.Started, r.before.Node
	}
	response, event := verdict.Response(), verdict.Event()
	for _, text := range []*string{&event.Reason, &event.Commit, &event.Image} {
		*text = r.redactor.String(*text)
	}
	r.record.Ended, r.record.Lines = time.Now().UTC(), lines
	r.record.End, r.record.ExitCode = verdict.End(), response.BuildExitCode
	r.record.Error, r.record.Msg = r.redactor.String(response.Error), r.redactor.String(response.Msg)
	r.record.Reason = event.Reason
	if verdict.Results != nil {
		r.record.Results = schemas.AppendEvent(nil, verdict.Results.Map(r.redactor.String))
	}
	r.record.Commit, r.record.Verdict = event.Commit, schemas.AppendEvent(nil, event)
	r.put()
}

func (r *recorder) put() {
	if err := r.records.Put(r.record); err != nil {
		r.log.Warn("cannot store the job's record", "err", err)
	}
}

// prune removes the records of jobs without a log.
func (b *Builder) prune(log *slog.Logger) {
	if err := b.records.Prune(b.logs.Has); err != nil {
		log.Warn("cannot remove records of old jobs", "err", err)
	}
}
