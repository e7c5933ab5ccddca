// Package agent tests jobs on an engine that the builder reaches through an agent, and clients that the
// agent must refuse.
package agent
