// Package timeline shows where the time of a pod start goes: it receives a runtime's
// OpenTelemetry spans and combines them over several pods.
package timeline
