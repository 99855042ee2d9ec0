//go:build !race

package streaming

const raceDetector = false
