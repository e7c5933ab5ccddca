package orchestrator

import "iglu.sh/builder/schemas"

// An Observer counts events of jobs and of the engine, for the metrics. Its methods must return immediately.
type Observer interface {
	// JobEnded is called when a job has ended, before its client gets the last message.
	JobEnded(verdict schemas.VerdictEvent)
	// NodeCame is called with the name of a node of the cluster when it can run jobs. It is not called
	// without a cluster.
	NodeCame(node string)
	// NodeGone is called with the name of a node when no node has it any more: it was forgotten, or has another name.
	NodeGone(node string)
	// EngineFailed is called when a call of a node's engine fails. call is a Call of engine.Failure. The node
	// is "" without a cluster. It is not called if the call failed because the job was cancelled.
	EngineFailed(node, call string)
}

// nobody is the Observer if none is set.
type nobody struct{}

func (nobody) JobEnded(schemas.VerdictEvent) {}
func (nobody) NodeCame(string)               {}
func (nobody) NodeGone(string)               {}
func (nobody) EngineFailed(string, string)   {}
