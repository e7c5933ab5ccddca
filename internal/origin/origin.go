// Package origin tells who a job comes from, for logs and records: the HTTP side says it, and the
// orchestrator, which knows no connections, reads it.
package origin

import "context"

type key struct{}

// WithClient returns a context of what a client has asked for, which is at an address.
func WithClient(ctx context.Context, address string) context.Context {
	return context.WithValue(ctx, key{}, address)
}

// Client returns the address of the client, or "" if nobody has said it.
func Client(ctx context.Context) string {
	address, _ := ctx.Value(key{}).(string)
	return address
}
