//go:build !long

package nodes

import "time"

const simulatedTime = 4 * time.Hour // of TestManyNodes
