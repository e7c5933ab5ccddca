package fakeengine

// What recorded answers have in the place of what is different each time.
const (
	ImageRef      = "registry.invalid/iglu/recorded:1"
	ContainerID   = "c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0"
	ContainerName = "iglu-recorded-container"
	NetworkID     = "beefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeef"
	NetworkName   = "iglu-recorded-network"
	VolumeName    = "iglu-recorded-volume"
	MissingName   = "iglu-recorded-missing"
)
