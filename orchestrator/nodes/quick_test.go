//go:build !long && !week

package nodes

import "time"

const simulatedTime = 4 * time.Hour // of TestManyNodes
