package wsapi

// Refusals are the reasons for which a client's job is not taken, in a word each; what
// Options.Refused is told. The last three are those of schemas.Refusal.
var Refusals = []string{refusedBusy, refusedDraining, refusedToken, refusedOrigin, refusedJob, refusedSilent, refusedLarge,
	"malformed", "invalid", "command"}

const (
	refusedBusy     = "busy"         // another client is connected
	refusedDraining = "draining"     // the builder is shutting down
	refusedToken    = "unauthorized" // the token is missing or wrong
	refusedOrigin   = "origin"       // it is a page of another origin
	refusedJob      = "from-a-job"   // it comes from the network that jobs are on
	refusedSilent   = "no-job"       // none has come in time
	refusedLarge    = "too-large"    // the job is
)

func (s *Server) refused(reason string) {
	if s.options.Refused != nil {
		s.options.Refused(reason)
	}
}
