//go:build week

package nodes

import "time"

const simulatedTime = 7 * 24 * time.Hour // of TestManyNodes
