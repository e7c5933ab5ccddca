package wsapi

import (
	"net/http"

	"iglu.sh/builder/wsapi/auth"
)

// Refusals are the reasons for which a client's job is refused, one word each. Options.Refused is called with
// them. Three are from package auth, and the last three are the kinds of schemas.Refusal.
var Refusals = []string{refusedBusy, refusedDraining, auth.RefusedToken, auth.RefusedOrigin, auth.RefusedNetwork, refusedSilent, refusedLarge,
	"malformed", "invalid", "command"}

const (
	refusedBusy     = "busy"      // other jobs have all slots, and the queue is full
	refusedDraining = "draining"  // the builder is shutting down
	refusedSilent   = "no-job"    // the client has sent no job in time
	refusedLarge    = "too-large" // the job exceeds MaxRequestBytes
)

func (s *Server) refused(reason string) {
	if s.options.Refused != nil {
		s.options.Refused(reason)
	}
}

// noteRefused logs and counts the reason for which a request is refused.
func (s *Server) noteRefused(r *http.Request, reason string) {
	s.log.Info("client refused", "client", r.RemoteAddr, "reason", reason)
	s.refused(reason)
}
