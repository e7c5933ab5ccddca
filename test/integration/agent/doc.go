// Package agent tests an engine that is reached through an agent: real jobs, and those who have no
// business there.
package agent
