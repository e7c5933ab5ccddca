package wsapi

import "iglu.sh/builder/wsapi/auth"

// Refusals are the reasons for which a client's job is not taken, in a word each. Options.Refused
// is called with them. Three are those of package auth, and the last three those of
// schemas.Refusal.
var Refusals = []string{refusedBusy, refusedDraining, auth.RefusedToken, auth.RefusedOrigin, auth.RefusedNetwork, refusedSilent, refusedLarge,
	"malformed", "invalid", "command"}

const (
	refusedBusy     = "busy"      // other clients have all places
	refusedDraining = "draining"  // the builder is shutting down
	refusedSilent   = "no-job"    // the client has sent no job in time
	refusedLarge    = "too-large" // the job exceeds MaxRequestBytes
)

func (s *Server) refused(reason string) {
	if s.options.Refused != nil {
		s.options.Refused(reason)
	}
}
