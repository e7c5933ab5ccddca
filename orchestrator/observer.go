package orchestrator

import "iglu.sh/builder/schemas"

// An Observer is told of jobs and of the engine, for the numbers that are kept of them. Its
// methods return at once.
type Observer interface {
	// JobEnded is told how a job ended, before the job's client is.
	JobEnded(verdict schemas.VerdictEvent)
	// NodeCame is told the name of a node that takes jobs now; of one engine it is not told.
	NodeCame(node string)
	// EngineFailed is told what a node's engine was to do and did not, in one of few sentences. The node is
	// "" if there is one engine. What failed because the job was cancelled is no failure.
	EngineFailed(node, call string)
}

// nobody is the Observer where none is given.
type nobody struct{}

func (nobody) JobEnded(schemas.VerdictEvent) {}
func (nobody) NodeCame(string)               {}
func (nobody) EngineFailed(string, string)   {}
