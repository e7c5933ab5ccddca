package web

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"iglu.sh/builder/internal/joblog"
)

// serveDerivations serves which derivations the job has begun to build.
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

// derivations returns those of a log, or answers the request. It reads all of the journal.
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

// serveDerivationLog serves a derivation's own log as text: as far as it reaches now, or, with follow, until
// its build has ended.
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
	if _, err := out.Write(nil); err != nil { // the header, before there is a line
		return
	}
	log.FollowDerivation(ctx, d, follow == 1, out) // its error is that the watcher has left
}

// theDerivation returns the derivation that a word stands for: its hash, its name, or both as its file in the store is
// called. Otherwise it answers the request.
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
	for _, d := range found {
		hashes = append(hashes, d.Hash)
	}
	http.Error(w, fmt.Sprintf("%d derivations have that name. Ask for one of their hashes: %s", len(found), strings.Join(hashes, ", ")), http.StatusConflict)
	return nil
}
