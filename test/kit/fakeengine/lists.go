package fakeengine

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"time"
)

// selects reports whether an object matches a call's filters.
func (r request) selects(name string, labels map[string]string) bool {
	var filters map[string]map[string]bool
	if text := r.FormValue("filters"); text != "" {
		must(json.Unmarshal([]byte(text), &filters))
	}
	for label := range filters["label"] {
		if key, value, _ := strings.Cut(label, "="); labels[key] != value {
			return false
		}
	}
	for pattern := range filters["name"] {
		if !regexp.MustCompile(pattern).MatchString(name) {
			return false
		}
	}
	return true
}

func (e *Engine) listContainers(r request) answer {
	e.mu.Lock()
	defer e.mu.Unlock()
	var found []*container
	for _, c := range e.containers {
		if r.selects(c.name, c.Labels) {
			found = append(found, c)
		}
	}
	if len(found) == 0 {
		return e.answers["container-list-empty"]
	}
	return e.answers["container-list"].listed(len(found), func(i int, c map[string]any) {
		c["Id"], c["Names"], c["Labels"], c["State"] = found[i].id, []string{"/" + found[i].name}, found[i].Labels, found[i].state
	})
}

func (e *Engine) createVolume(r request) answer {
	var v volume
	must(json.Unmarshal(r.body, &v))
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.volumes[v.Name] == nil { // otherwise engines return the existing one
		v.files = make(map[string][]byte)
		e.volumes[v.Name] = &v
	}
	return e.answers["volume-create"].edited(e.volumes[v.Name].edit)
}

// edit sets the fields of a recorded volume to those of this one.
func (v *volume) edit(recorded map[string]any) {
	recorded["Name"], recorded["Labels"] = v.Name, v.Labels
	recorded["Mountpoint"] = strings.ReplaceAll(recorded["Mountpoint"].(string), VolumeName, v.Name)
}

func (e *Engine) inspectVolume(r request) answer {
	e.mu.Lock()
	defer e.mu.Unlock()
	if v := e.volumes[r.of]; v != nil {
		return e.answers["volume-inspect"].edited(v.edit)
	}
	return e.answers["volume-missing"].with(MissingName, r.of)
}

func (e *Engine) listVolumes(r request) answer {
	e.mu.Lock()
	defer e.mu.Unlock()
	var found []*volume
	for _, v := range e.volumes {
		if r.selects(v.Name, v.Labels) {
			found = append(found, v)
		}
	}
	slices.SortFunc(found, func(a, b *volume) int { return strings.Compare(a.Name, b.Name) })
	if len(found) == 0 {
		return e.answers["volume-list-empty"]
	}
	return e.answers["volume-list"].edited(func(list map[string]any) {
		recorded := must2(json.Marshal(list["Volumes"].([]any)[0]))
		list["Volumes"] = elements(recorded, len(found), func(i int, v map[string]any) { found[i].edit(v) })
	})
}

func (e *Engine) removeVolume(r request) answer {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.volumes[r.of] == nil {
		return e.answers["volume-remove-missing"].with(MissingName, r.of)
	}
	for _, c := range e.containers {
		for _, m := range c.HostConfig.Mounts {
			if m.Source == r.of {
				return e.answers["volume-in-use"].with(VolumeName, r.of, ContainerID, c.id)
			}
		}
	}
	delete(e.volumes, r.of)
	return e.answers["volume-remove"]
}

func (e *Engine) createNetwork(r request) answer {
	var n network
	must(json.Unmarshal(r.body, &n))
	e.mu.Lock()
	defer e.mu.Unlock()
	n.id, n.created = e.newID(), time.Now()
	e.networks = append(e.networks, &n)
	return e.answers["network-create"].with(NetworkID, n.id)
}

func (n *network) edit(recorded map[string]any) {
	recorded["Id"], recorded["Name"], recorded["Labels"], recorded["Created"] = n.id, n.Name, n.Labels, n.created
}

func (e *Engine) listNetworks(r request) answer {
	e.mu.Lock()
	defer e.mu.Unlock()
	var found []*network
	for _, n := range e.networks {
		if r.selects(n.Name, n.Labels) {
			found = append(found, n)
		}
	}
	if len(found) == 0 {
		return e.answers["network-list-empty"]
	}
	return e.answers["network-list"].listed(len(found), func(i int, n map[string]any) { found[i].edit(n) })
}

// networkAt returns the index of a network in the list, or -1. e.mu must be held.
func (e *Engine) networkAt(name string) int {
	return slices.IndexFunc(e.networks, func(n *network) bool { return n.id == name || n.Name == name })
}

func (e *Engine) inspectNetwork(r request) answer {
	e.mu.Lock()
	defer e.mu.Unlock()
	if at := e.networkAt(r.of); at >= 0 {
		return e.answers["network-inspect"].edited(e.networks[at].edit)
	}
	return e.answers["network-missing"].with(MissingName, r.of)
}

func (e *Engine) removeNetwork(r request) answer {
	e.mu.Lock()
	defer e.mu.Unlock()
	at := e.networkAt(r.of)
	if at < 0 {
		return e.answers["network-remove-missing"].with(MissingName, r.of)
	}
	e.networks = slices.Delete(e.networks, at, at+1)
	return e.answers["network-remove"]
}
