//go:build integration

package protocol

import (
	"fmt"
)

func cancelledBecause(msg string) string {
	return fmt.Sprintf(`{"error":"The job was cancelled.","msg":%q,"jobStatus":"failed"}`, msg)
}
