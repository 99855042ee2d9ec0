// Package report shows results: as a table on a terminal, as SVG plots, as one
// HTML page that needs no network, and as a comparison of two runs. It measures
// and removes nothing.
package report
