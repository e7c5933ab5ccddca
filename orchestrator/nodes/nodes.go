// Package nodes decides when and on which node each job runs. Its queue keeps jobs in the order of their
// arrival, and gives each a slot of a suitable node. It knows the slots and the platform of a node only: the
// engine of a node is the caller's business.
package nodes

// A Node is a machine that runs jobs.
type Node struct {
	// Platform is the platform whose programs the node runs, such as linux/amd64. It is empty if that is
	// not known.
	Platform string
	// Slots is how many jobs the node runs at once.
	Slots int

	// Guarded by the queue's mu.
	taken int  // slots that jobs have
	up    bool // it accepts jobs
}

// free returns how many more jobs the node accepts now.
func (n *Node) free() int {
	if !n.up {
		return 0
	}
	return n.Slots - n.taken
}
