package translate

import (
	"bytes"
	"math"
	"slices"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// User is whom a container's process runs as.
type User struct {
	// Docker is Docker's user, always "uid:gid": with an explicit group Docker
	// adds no group on its own, so GroupAdd is the whole list.
	Docker string
	// GroupAdd are the additional groups for Docker, as numbers.
	GroupAdd []string
	UID, GID int64
	// Groups are all groups of the process, the primary one among them, sorted.
	Groups []int64
}

// maxID is the largest user or group id Docker accepts.
const maxID = math.MaxInt32

// account is a line of /etc/passwd.
type account struct {
	name     string
	uid, gid int64
}

// requestedUser is the user a container shall run as, before it is looked up.
type requestedUser struct {
	user, group string // name or number; "" group: the user's primary group
	field       string // where user came from, for messages
}

// NeedsPasswd says whether [ResolveUser] must see the image's /etc/passwd and
// /etc/group: unless user and group are numbers and the policy is Strict, names
// or memberships have to be looked up.
func NeedsPasswd(sc *runtimeapi.LinuxContainerSecurityContext, imageUser string) bool {
	want := userRequest(sc, imageUser)
	_, userIsNumber := parseID(want.user)
	_, groupIsNumber := parseID(want.group)
	strict := sc.GetSupplementalGroupsPolicy() == runtimeapi.SupplementalGroupsPolicy_Strict
	return !strict || !userIsNumber || !groupIsNumber
}

// ResolveUser finds the user, primary group and supplementary groups of a
// container. imageUser is the image's USER; it counts when the security context
// names no user. passwd and group are the contents of the image's files, nil
// when absent. With policy Merge, groups that list the user as a member in the
// image are added; with Strict only the requested ones count. A user or group
// name the image does not have is ErrInvalidArgument.
func ResolveUser(sc *runtimeapi.LinuxContainerSecurityContext, imageUser string, passwd, group []byte) (User, error) {
	if err := validateUser(sc); err != nil {
		return User{}, err
	}
	want := userRequest(sc, imageUser)
	acct, err := findAccount(want, passwd)
	if err != nil {
		return User{}, err
	}
	gid := acct.gid
	if want.group != "" {
		if gid, err = findGroup(want, group); err != nil {
			return User{}, err
		}
	}
	extra := slices.Clone(sc.GetSupplementalGroups())
	if sc.GetSupplementalGroupsPolicy() == runtimeapi.SupplementalGroupsPolicy_Merge {
		extra = append(extra, memberships(acct.name, group)...)
	}
	return newUser(acct.uid, gid, extra), nil
}

// validateUser checks the fields that name users and groups. sc may be nil.
func validateUser(sc *runtimeapi.LinuxContainerSecurityContext) error {
	const in = "linux.security_context."
	if sc.GetRunAsUser() != nil && sc.GetRunAsUsername() != "" {
		return invalid(in+"run_as_username", "set together with run_as_user; give one of them")
	}
	if sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil && sc.GetRunAsUsername() == "" {
		return invalid(in+"run_as_group", "set without run_as_user or run_as_username")
	}
	if strings.ContainsAny(sc.GetRunAsUsername(), ":\x00\n") {
		return invalid(in+"run_as_username", "%q is not a user name", sc.GetRunAsUsername())
	}
	return validateIDs(in, sc.GetRunAsUser(), sc.GetRunAsGroup(), sc.GetSupplementalGroups(), sc.GetSupplementalGroupsPolicy())
}

func validateIDs(in string, user, group *runtimeapi.Int64Value, supplemental []int64, policy runtimeapi.SupplementalGroupsPolicy) error {
	if user != nil && !validID(user.GetValue()) {
		return invalid(in+"run_as_user", "%d is not in 0..%d", user.GetValue(), maxID)
	}
	if group != nil && !validID(group.GetValue()) {
		return invalid(in+"run_as_group", "%d is not in 0..%d", group.GetValue(), maxID)
	}
	for i, g := range supplemental {
		if !validID(g) {
			return invalid(in+"supplemental_groups["+strconv.Itoa(i)+"]", "%d is not in 0..%d", g, maxID)
		}
	}
	if _, ok := runtimeapi.SupplementalGroupsPolicy_name[int32(policy)]; !ok {
		return invalid(in+"supplemental_groups_policy", "unknown policy %d", policy)
	}
	return nil
}

func validID(id int64) bool { return id >= 0 && id <= maxID }

// userRequest picks who is asked for: the security context, else the image,
// else root.
func userRequest(sc *runtimeapi.LinuxContainerSecurityContext, imageUser string) requestedUser {
	const in = "linux.security_context."
	var want requestedUser
	switch {
	case sc.GetRunAsUser() != nil:
		want = requestedUser{user: strconv.FormatInt(sc.GetRunAsUser().GetValue(), 10), field: in + "run_as_user"}
	case sc.GetRunAsUsername() != "":
		want = requestedUser{user: sc.GetRunAsUsername(), field: in + "run_as_username"}
	default:
		user, group, _ := strings.Cut(imageUser, ":")
		want = requestedUser{user: user, group: group, field: "image.user"}
	}
	if want.user == "" {
		want.user = "0"
	}
	if g := sc.GetRunAsGroup(); g != nil {
		want.group = strconv.FormatInt(g.GetValue(), 10)
	}
	return want
}

// findAccount looks a user up by name or number, as Docker does: the first
// line that has either. A number needs no line.
func findAccount(want requestedUser, passwd []byte) (account, error) {
	id, isNumber := parseID(want.user)
	for fields := range lines(passwd, 4) {
		uid, ok := parseID(fields[2])
		if !ok || (fields[0] != want.user && (!isNumber || uid != id)) {
			continue
		}
		gid, ok := parseID(fields[3])
		if !ok {
			continue
		}
		return account{name: fields[0], uid: uid, gid: gid}, nil
	}
	switch {
	case isNumber:
		return account{uid: id}, nil
	case want.user == "root":
		// An image without /etc/passwd still has a root.
		return account{name: "root"}, nil
	}
	return account{}, invalid(want.field, "user %q is not in the image's /etc/passwd", want.user)
}

func findGroup(want requestedUser, group []byte) (int64, error) {
	if id, ok := parseID(want.group); ok {
		return id, nil
	}
	for fields := range lines(group, 3) {
		if gid, ok := parseID(fields[2]); ok && fields[0] == want.group {
			return gid, nil
		}
	}
	if want.group == "root" {
		return 0, nil
	}
	return 0, invalid(want.field, "group %q is not in the image's /etc/group", want.group)
}

// memberships are the groups that list the user as a member.
func memberships(name string, group []byte) []int64 {
	if name == "" {
		return nil
	}
	var gids []int64
	for fields := range lines(group, 4) {
		gid, ok := parseID(fields[2])
		if ok && slices.Contains(strings.Split(fields[3], ","), name) {
			gids = append(gids, gid)
		}
	}
	return gids
}

// lines yields the fields of each line that has at least n of them. Comments,
// NIS entries and malformed lines are passed over, as libc does.
func lines(file []byte, n int) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for line := range bytes.Lines(file) {
			text := strings.TrimSpace(string(line))
			if text == "" || text[0] == '#' || text[0] == '+' || text[0] == '-' {
				continue
			}
			if fields := strings.Split(text, ":"); len(fields) >= n && !yield(fields) {
				return
			}
		}
	}
}

func newUser(uid, gid int64, extra []int64) User {
	slices.Sort(extra)
	extra = slices.Compact(extra)
	user := User{
		Docker: strconv.FormatInt(uid, 10) + ":" + strconv.FormatInt(gid, 10),
		UID:    uid,
		GID:    gid,
		Groups: append([]int64{gid}, extra...),
	}
	for _, g := range extra {
		user.GroupAdd = append(user.GroupAdd, strconv.FormatInt(g, 10))
	}
	slices.Sort(user.Groups)
	user.Groups = slices.Compact(user.Groups)
	return user
}

// parseID reads a user or group id.
func parseID(s string) (int64, bool) {
	id, err := strconv.ParseInt(s, 10, 64)
	if err != nil || !validID(id) {
		return 0, false
	}
	return id, true
}

// sandboxUser gives Docker's user and groups of the pause process. Its image
// has no accounts, so the request's numbers are all there is.
func sandboxUser(sc *runtimeapi.LinuxSandboxSecurityContext) (user string, groups []string) {
	if uid := sc.GetRunAsUser(); uid != nil {
		user = strconv.FormatInt(uid.GetValue(), 10)
		gid := int64(0)
		if g := sc.GetRunAsGroup(); g != nil {
			gid = g.GetValue()
		}
		user += ":" + strconv.FormatInt(gid, 10)
	}
	for _, g := range sc.GetSupplementalGroups() {
		groups = append(groups, strconv.FormatInt(g, 10))
	}
	return user, groups
}
