package schemas

// stackRequest is a job from the scheduler of today's Iglu stack: rows of its database, in which an empty
// string means that a property is not set. Properties without a counterpart in a Request must have the right
// type and are ignored otherwise; docs/iglu.md lists them.
type stackRequest struct {
	Git          stackGit          `json:"git_config" wire:"required"`
	Builder      stackBuilder      `json:"builder"`
	BuildOptions stackBuildOptions `json:"build_options" wire:"required"`
	Cachix       stackCachix       `json:"cachix_config" wire:"required"`
	Nix          Nix               `json:"nix"`
	Colors       bool              `json:"colors"`
}

type stackGit struct {
	ID           float64 `json:"id"`
	BuilderID    float64 `json:"builder_id"`
	Repository   string  `json:"repository"`
	Branch       string  `json:"branch"`
	GitUsername  string  `json:"gitusername"`
	GitKey       string  `json:"gitkey"`
	RequiresAuth bool    `json:"requiresauth"`
	NoClone      bool    `json:"noclone" wire:"required"`
}

type stackBuilder struct {
	ID          float64 `json:"id"`
	CacheID     float64 `json:"cache_id"`
	Name        string  `json:"name"`
	Description string  `json:"description"`
	Enabled     bool    `json:"enabled"`
	Trigger     string  `json:"trigger"`
	Cron        string  `json:"cron"`
	Arch        string  `json:"arch"`
	WebhookURL  string  `json:"webhookurl"`
}

type stackBuildOptions struct {
	ID             float64            `json:"id"`
	BuilderID      float64            `json:"builder_id"`
	Cores          *Integer           `json:"cores"`
	MaxJobs        *Integer           `json:"maxjobs"`
	KeepGoing      bool               `json:"keep_going"`
	ExtraArgs      string             `json:"extraargs"`
	Substituters   []stackSubstituter `json:"substituters"`
	ParallelBuilds bool               `json:"parallelbuilds"`
	Command        string             `json:"command" wire:"required"`
}

type stackSubstituter struct {
	_                 struct{} `wire:"open"`
	URL               string   `json:"url"`
	PublicSigningKeys []string `json:"public_signing_keys"`
}

type stackCachix struct {
	ID             float64 `json:"id"`
	BuilderID      float64 `json:"builder_id"`
	Push           *bool   `json:"push"`
	Target         string  `json:"target"`
	APIKey         string  `json:"apikey"`
	APIKeyID       float64 `json:"apikeyid"`
	SigningKey     string  `json:"signingkey"`
	SigningKeyID   float64 `json:"signingkeyid"`
	BuildOutputDir string  `json:"buildoutputdir"`
}

// request returns the job as a Request. Empty strings in lists are left out.
func (s *stackRequest) request() *Request {
	options := BuildOptions{
		Cores:     s.BuildOptions.Cores,
		MaxJobs:   s.BuildOptions.MaxJobs,
		KeepGoing: s.BuildOptions.KeepGoing,
		ExtraArgs: s.BuildOptions.ExtraArgs,
		Command:   s.BuildOptions.Command,
		Cachix: Cachix{
			Push:       s.Cachix.push(),
			Target:     s.Cachix.Target,
			APIKey:     s.Cachix.APIKey,
			SigningKey: s.Cachix.SigningKey,
		},
	}
	var substituters, keys set
	for _, substituter := range s.BuildOptions.Substituters {
		substituters.add(substituter.URL)
		keys.add(substituter.PublicSigningKeys...)
	}
	options.Substituters, options.TrustedPublicKeys = substituters.texts, keys.texts
	return &Request{
		Git: Git{
			Repository:   s.Git.Repository,
			Branch:       s.Git.Branch,
			GitUsername:  s.Git.GitUsername,
			GitKey:       s.Git.GitKey,
			RequiresAuth: s.Git.RequiresAuth,
			NoClone:      s.Git.NoClone,
		},
		BuildOptions: options,
		Nix:          s.Nix,
		Colors:       s.Colors,
		Arch:         s.Builder.Arch,
	}
}

// push reports whether the job pushes. If the job has no property push, it pushes, as with Iglu's own
// builder, unless no text in cachix_config is set.
func (s *stackCachix) push() bool {
	if s.Push != nil {
		return *s.Push
	}
	return s.Target != "" || s.APIKey != "" || s.SigningKey != ""
}

// A set has texts in the order in which they were added.
type set struct {
	texts []string
	has   map[string]bool
}

// add adds the texts that are not empty and not in the set yet.
func (s *set) add(more ...string) {
	for _, text := range more {
		if text == "" || s.has[text] {
			continue
		}
		if s.has == nil {
			s.has = make(map[string]bool)
		}
		s.has[text] = true
		s.texts = append(s.texts, text)
	}
}
