// Package stat has the few statistics that a benchmark's report needs. It is
// pure: no clock, no files, and equal input gives equal output, random
// resampling included.
package stat
