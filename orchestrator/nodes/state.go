package nodes

import "time"

// A State is what there is to say of a node. It is what the API answers, too.
type State struct {
	// Name is that of the node's machine, or the address at which no engine can be used so far.
	Name string `json:"name"`
	// Up is true while the node's engine answers. Since is when the builder has found that it does not; zero
	// while it does.
	Up    bool      `json:"up"`
	Since time.Time `json:"since,omitzero"`
	// Problem says in a sentence why the node is not up, or why jobs fail there; empty if there is no reason.
	Problem string `json:"problem,omitempty"`
	// Draining is true if the node's agent was asked to stop: its jobs go on, and it gets no more.
	Draining bool   `json:"draining,omitempty"`
	Platform string `json:"platform,omitempty"` // such as linux/amd64; empty if not known, as for what follows
	CPUs     int    `json:"cpus,omitempty"`
	Memory   int64  `json:"memory,omitempty"` // in bytes
	// Slots is how many jobs the node runs at once, and Running how many have one now.
	Slots   int `json:"slots"`
	Running int `json:"running"`
	// Stores is how many Nix stores the node keeps between jobs, and StoreBytes how many bytes they take.
	Stores     int   `json:"stores"`
	StoreBytes int64 `json:"storeBytes"`
}

// Free is how many more jobs the node takes now.
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
