// Package stat has the few statistics that a benchmark's report needs. It is pure: it
// uses no clock and no files, and equal input gives equal output, even with random
// resampling.
package stat
