// Package nodes says which job runs where and when: its queue keeps jobs in the order in which they
// came, and gives each a slot of a node that suits it. What a node is beside its slots, others know.
package nodes

// A Node runs jobs.
type Node struct {
	// Platform is what the node's programs are for, such as linux/amd64; empty if that is not known.
	Platform string
	// Slots is how many jobs it runs at once.
	Slots int

	taken int  // slots; guarded by the queue, as is what follows
	up    bool // it takes jobs
}

// free returns how many more jobs the node takes now.
func (n *Node) free() int {
	if !n.up {
		return 0
	}
	return n.Slots - n.taken
}
