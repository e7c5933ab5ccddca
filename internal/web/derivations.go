package web

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"iglu.sh/builder/internal/joblog"
)

// serveDerivations serves the list of derivations that the job has begun to build.
func (s *Server) serveDerivations(w http.ResponseWriter, r *http.Request) {
	log := s.reader(w, r)
	if log == nil {
		return
	}
	defer log.Close()
	all, ok := s.derivations(w, r, log)
	if !ok {
		return
	}
	if all == nil {
		all = []*joblog.Derivation{}
	}
	s.answer(w, r, struct {
		Derivations []*joblog.Derivation `json:"derivations"`
	}{all})
}

// derivations returns the derivations of a log. If it fails, it answers the request. It reads the whole journal.
func (s *Server) derivations(w http.ResponseWriter, r *http.Request, log *joblog.Reader) (all []*joblog.Derivation, ok bool) {
	if !s.takeSearch(w, r) {
		return nil, false
	}
	defer func() { <-s.searches }()
	ctx, cancel := context.WithTimeout(r.Context(), searchTimeout)
	defer cancel()
	all, err := log.Derivations(ctx)
	if err != nil {
		s.fail(w, r, err)
	}
	return all, err == nil
}

// serveDerivationLog serves a derivation's own log as text: the current content or, with follow, the log until
// the build has ended.
func (s *Server) serveDerivationLog(w http.ResponseWriter, r *http.Request) {
	follow, ok := number(w, r, "follow", 0, 1)
	if !ok {
		return
	}
	log := s.reader(w, r)
	if log == nil {
		return
	}
	defer log.Close()
	all, ok := s.derivations(w, r, log)
	if !ok {
		return
	}
	d := theDerivation(w, all, r.PathValue("derivation"))
	if d == nil {
		return
	}
	ctx, out, left, ok := s.watchers.watch(w, r)
	if !ok {
		return
	}
	defer left()
	nameText(w, r, "iglu-builder-"+r.PathValue("id")+"-"+d.Name+".log")
	if _, err := out.Write(nil); err != nil { // sends the header before the first line
		return
	}
	abortUnlessSent(log.FollowDerivation(ctx, d, follow == 1, out))
}

// maxHashes is how many derivations of the same name an answer lists.
const maxHashes = 20

// theDerivation returns the derivation for a word: its hash, its name, or the name of its file in the store. If
// there is none, it answers the request.
func theDerivation(w http.ResponseWriter, all []*joblog.Derivation, word string) *joblog.Derivation {
	var found []*joblog.Derivation
	for _, d := range all {
		if word == d.Hash || word == d.Name || strings.TrimSuffix(word, ".drv") == d.Hash+"-"+d.Name {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 0:
		http.Error(w, "The job has not begun to build such a derivation.", http.StatusNotFound)
		return nil
	case 1:
		return found[0]
	}
	var hashes []string
	for _, d := range found[:min(len(found), maxHashes)] {
		hashes = append(hashes, d.Hash)
	}
	if len(found) > maxHashes {
		hashes = append(hashes, "…")
	}
	http.Error(w, fmt.Sprintf("%d derivations have that name. Ask for one of their hashes: %s", len(found), strings.Join(hashes, ", ")), http.StatusConflict)
	return nil
}
