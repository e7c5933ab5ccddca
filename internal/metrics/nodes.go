package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"iglu.sh/builder/orchestrator/nodes"
)

// A nodeNumber is a metric of each node.
type nodeNumber struct {
	desc  *prometheus.Desc
	value func(nodes.State) float64
}

func newNodeNumber(name, help string, value func(nodes.State) float64) nodeNumber {
	return nodeNumber{prometheus.NewDesc(prometheus.BuildFQName(namespace, "node", name), help, []string{"node"}, nil), value}
}

var nodeNumbers = []nodeNumber{
	newNodeNumber("up", "Whether the node's engine can be used.", func(s nodes.State) float64 {
		if s.Up {
			return 1
		}
		return 0
	}),
	newNodeNumber("jobs_max", "Jobs that the node can run at once.", func(s nodes.State) float64 {
		if s.Up {
			return float64(s.Slots)
		}
		return 0
	}),
	newNodeNumber("jobs_running", "Jobs that are running on the node.", func(s nodes.State) float64 { return float64(s.Running) }),
	newNodeNumber("store_volumes", "Volumes of the node that keep a Nix store between jobs.", func(s nodes.State) float64 { return float64(s.Stores) }),
	newNodeNumber("store_bytes", "Bytes that these volumes take.", func(s nodes.State) float64 { return float64(s.StoreBytes) }),
}

// Nodes adds the metrics of the nodes of a cluster. read returns the nodes. It is called whenever the metrics
// are requested.
func (m *Metrics) Nodes(read func() []nodes.State) { m.registry.MustRegister(nodeCollector{read}) }

// A nodeCollector is a prometheus.Collector of the metrics of nodes.
type nodeCollector struct{ read func() []nodes.State }

func (c nodeCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, n := range nodeNumbers {
		descs <- n.desc
	}
}

func (c nodeCollector) Collect(values chan<- prometheus.Metric) {
	for _, state := range c.read() {
		for _, n := range nodeNumbers {
			values <- prometheus.MustNewConstMetric(n.desc, prometheus.GaugeValue, n.value(state), state.Name)
		}
	}
}
