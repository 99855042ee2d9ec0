// Package network attaches pod network namespaces to a CNI network and detaches
// them again.
//
// The story of one attachment:
//
//  1. The caller pins the sandbox's network namespace (PinNetNS), so that it
//     outlives the process that made it.
//  2. Setup writes down what it is about to do, runs the plug-ins' ADD, and
//     crosses the note out once libcni has the result in its cache.
//  3. Attachment answers the addresses from memory.
//  4. Teardown runs DEL with the configuration and arguments that ADD had, from
//     libcni's cache, or from the note of an ADD that never finished, whatever
//     the configuration directory holds by then. The caller unpins the
//     namespace (UnpinNetNS).
//
// What is on disk, below Config.CacheDir:
//
//	results/NETWORK-CONTAINER-IFNAME          libcni's result cache, shared in
//	                                          format with every libcni user
//	cridock/results/NETWORK-CONTAINER-IFNAME  the note of an ADD under way, same
//	                                          format without a result
//	cridock/pod-cidrs                         the last value of SetPodCIDRs
//
// The package knows neither Docker nor CRI: it sees container IDs, namespace
// paths and CNI arguments. It never changes the network namespace of the
// calling process, and never runs anything but CNI plug-ins.
package network
