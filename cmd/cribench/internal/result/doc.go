// Package result has the record of a benchmark: every sample, what was measured and
// on which machine, as one JSON document. It knows neither how samples are taken nor
// how they are shown.
package result
