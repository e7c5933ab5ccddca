// Package swarm tests the stack of examples/swarm on a Docker Swarm of three nodes, and what happens to its
// jobs when nodes, agents or the server crash, are disconnected or are replaced. All its tests are in the
// long suite: make test-all.
package swarm
