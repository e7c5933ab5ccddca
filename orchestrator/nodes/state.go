package nodes

import "time"

// A State describes a node. The API returns it in this format.
type State struct {
	// Name is the name of the node's machine. It is an address if no engine could be used there so far.
	Name string `json:"name"`
	// Up is true while the node's engine answers. Since is when the builder noticed that it does not; zero
	// while it does.
	Up    bool      `json:"up"`
	Since time.Time `json:"since,omitzero"`
	// Problem says in a sentence why the node is not up, or why jobs fail there. It is empty if there is no
	// problem.
	Problem string `json:"problem,omitempty"`
	// Draining is true if the node's agent was asked to stop: its jobs continue, and it gets no more.
	Draining bool `json:"draining,omitempty"`
	// Platform, CPUs and Memory describe the machine. They are empty if they are not known.
	Platform string `json:"platform,omitempty"` // such as linux/amd64
	CPUs     int    `json:"cpus,omitempty"`
	Memory   int64  `json:"memory,omitempty"` // in bytes
	// Slots is how many jobs the node runs at once, and Running how many run now.
	Slots   int `json:"slots"`
	Running int `json:"running"`
	// Stores is how many Nix stores the node keeps between jobs, and StoreBytes how many bytes they take.
	Stores     int   `json:"stores"`
	StoreBytes int64 `json:"storeBytes"`
}

// Free returns how many more jobs the node accepts now.
func (s State) Free() int {
	if !s.Up || s.Draining {
		return 0
	}
	return s.Slots - s.Running
}

// Taken returns how many jobs have a slot of a node.
func (q *Queue) Taken(n *Node) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return n.taken
}
