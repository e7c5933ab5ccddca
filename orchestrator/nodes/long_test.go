//go:build long && !week

package nodes

import "time"

const simulatedTime = 24 * time.Hour // of TestManyNodes
