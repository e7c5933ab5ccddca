package gitserver

import (
	"encoding/json"
	"net/http"
	"strings"
)

// An LFS adds a Git LFS server to a git server: the batch API (docs/api/batch.md of Git LFS) for downloads
// with "basic" transfers. It requires the same credentials.
type LFS struct {
	*Server
	Objects map[string]string // contents by id, a SHA-256 in hexadecimal
}

// ServeHTTP serves a request of Git LFS or of git.
func (l *LFS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, what, ok := strings.Cut(r.URL.Path, "/info/lfs/objects/")
	if !ok {
		l.Server.ServeHTTP(w, r)
		return
	}
	if !l.authorized(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if what != "batch" {
		w.Write([]byte(l.Objects[what]))
		return
	}
	type object struct {
		OID     string                       `json:"oid"`
		Size    int                          `json:"size"`
		Actions map[string]map[string]string `json:"actions,omitempty"`
	}
	var batch struct {
		Transfer string   `json:"transfer,omitempty"`
		Objects  []object `json:"objects"`
	}
	if err := json.NewDecoder(r.Body).Decode(&batch); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	batch.Transfer = "basic"
	for i := range batch.Objects {
		o := &batch.Objects[i]
		o.Actions = map[string]map[string]string{"download": {"href": "http://" + r.Host + strings.TrimSuffix(r.URL.Path, "batch") + o.OID}}
	}
	w.Header().Set("Content-Type", "application/vnd.git-lfs+json")
	json.NewEncoder(w).Encode(batch)
}
