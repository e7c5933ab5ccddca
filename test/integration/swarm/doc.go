// Package swarm tests the stack of examples/swarm on a Docker Swarm of three nodes: what becomes of its jobs
// when nodes, agents and the server die, are cut off and are replaced. All of it belongs to make test-all.
package swarm
