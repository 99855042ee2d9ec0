// Package network attaches pod network namespaces to a CNI network and detaches
// them again.
//
// The life of an attachment:
//
//  1. The caller pins the sandbox's network namespace (PinNetNS), so that it
//     outlives the process that made it.
//  2. Setup writes a note of the ADD, runs it, and deletes the note once the
//     result is in libcni's cache.
//  3. Attachment returns the addresses from memory.
//  4. Teardown runs DEL with the configuration and arguments of ADD, from
//     libcni's cache or from the note of an ADD that never finished, whatever
//     the configuration directory holds by then. The caller unpins the
//     namespace (UnpinNetNS).
//
// Files below Config.CacheDir:
//
//	results/NETWORK-CONTAINER-IFNAME          libcni's result cache, shared in
//	                                          format with every libcni user
//	cridock/results/NETWORK-CONTAINER-IFNAME  the note of a pending ADD, in the same
//	                                          format without a result
//	cridock/pod-cidrs                         the last value of SetPodCIDRs
//
// The package knows neither Docker nor CRI: it gets container IDs, namespace paths
// and CNI arguments. It never changes the network namespace of the calling
// process, and runs nothing but CNI plugins.
package network
