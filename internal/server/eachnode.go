package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"

	"iglu.sh/builder/orchestrator"
	"iglu.sh/builder/orchestrator/engine"
	"iglu.sh/builder/orchestrator/stores"
)

// A Node is an engine that the configured builder uses, opened for a command such as cleanup.
type Node struct {
	// Name is the name of the engine's machine, followed by its address if another machine has the same
	// name. It is empty if the builder uses one engine.
	Name   string
	Engine orchestrator.Unused
	Stores stores.Options // how its stores are kept

	address, id string
}

// OpenNodes returns the engine of the settings, or those of all nodes that can be reached. The error has a
// line for each node that cannot be reached, with the reason. The caller closes the engines.
func (s *Settings) OpenNodes(ctx context.Context, log *slog.Logger) (nodes []Node, err error) {
	if len(s.Nodes) == 0 {
		e, err := s.openOne("", log)
		if err != nil {
			return nil, err
		}
		return []Node{{Engine: e, Stores: s.storeOptions()}}, nil
	}
	keys, err := s.nodeKeys()
	if err != nil {
		return nil, err
	}
	return openNodes(ctx, net.DefaultResolver, s.Nodes, s.storeOptions(), func(address string) (orchestrator.Unused, error) {
		return s.openEngine("tcp://"+address, dialing(keys), "", log)
	})
}

// openNodes returns the nodes that can be reached. A name can resolve to several nodes.
func openNodes(ctx context.Context, r resolver, names []string, options stores.Options, open func(address string) (orchestrator.Unused, error)) (nodes []Node, failed error) {
	var all []string
	addresses, notResolved := resolve(ctx, r, names)
	for i, name := range names {
		err := notResolved[i]
		if err == nil && len(addresses[i]) == 0 {
			err = errors.New("the name resolves to no address")
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("node %s: %w", name, err))
		}
		all = append(all, addresses[i]...)
	}
	found, failures := make([]Node, len(all)), make([]error, len(all))
	var asking sync.WaitGroup
	for i, address := range all {
		asking.Go(func() { found[i], failures[i] = openNode(ctx, address, options, open) })
	}
	asking.Wait()
	for i, err := range failures {
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("node %s: %w", all[i], err))
		} else {
			nodes = append(nodes, found[i])
		}
	}
	return distinct(nodes), failed
}

func openNode(ctx context.Context, address string, options stores.Options, open func(address string) (orchestrator.Unused, error)) (Node, error) {
	e, err := open(address)
	if err != nil {
		return Node{}, err
	}
	info, err := e.Info(ctx)
	if err == nil {
		return Node{Name: info.Name, Engine: e, Stores: options.OfNode(info.ID), address: address, id: info.ID}, nil
	}
	e.Close()
	if f, ok := errors.AsType[*engine.Failure](err); ok { // its advice is for a builder with one engine
		return Node{}, fmt.Errorf("%s (%w)", f.What, cmp.Or(f.Cause, errors.New(f.Advice)))
	}
	return Node{}, err
}

// distinct returns each engine once, with a unique name, and closes duplicates.
func distinct(nodes []Node) []Node {
	slices.SortFunc(nodes, func(a, b Node) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.address, b.address)) })
	known := make(map[string]bool)
	nodes = slices.DeleteFunc(nodes, func(n Node) bool {
		again := known[n.id]
		known[n.id] = true
		if again {
			n.Engine.Close()
		}
		return again
	})
	machines := make(map[string]int) // how many machines have the name
	for _, n := range nodes {
		machines[n.Name]++
	}
	for i := range nodes {
		if machines[nodes[i].Name] > 1 {
			nodes[i].Name += " (" + nodes[i].address + ")"
		}
	}
	return nodes
}
