package translate

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// User holds the user and groups that a container's process runs as.
type User struct {
	// Docker is Docker's user, always "uid:gid": with an explicit group Docker adds
	// no groups itself, so GroupAdd is the full list.
	Docker string
	// GroupAdd are the additional groups for Docker, as numbers.
	GroupAdd []string
	UID, GID int64
	// Groups are all groups of the process including the primary one, sorted.
	Groups []int64
}

const (
	// maxID is the largest user or group id Docker accepts.
	maxID = math.MaxInt32
	// maxGroups is Linux's maximum number of groups of a process.
	maxGroups = 65536
	// maxGroupLookups bounds groups times lines of the image's /etc/group. Docker
	// and runc compare each group with each line, at about 0.3 µs, while the
	// container starts.
	maxGroupLookups = 1 << 22
)

// account is a line of /etc/passwd. moby/sys/user is not used to read it: it takes
// an id that is not a number for 0, which is root.
type account struct {
	name     string
	uid, gid int64
}

// requestedUser is the user to run a container as, before it is looked up.
type requestedUser struct {
	user, group string // name or number; "" group: the user's primary group
	field       string // where user comes from, for errors
}

// ResolveUser returns the user, primary group and supplementary groups of a
// container. imageUser is the image's USER; it is used if the security context
// names no user. passwd and group are the contents of the image's files, nil if
// absent. A number is a uid or gid and never a name. Policy Merge adds the image's
// groups that list the user as a member; Strict uses only the requested ones. A
// named user or group that the image does not have, or a group that Docker would
// mistake for another, is ErrInvalidArgument.
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
	slices.Sort(extra)
	extra = slices.Compact(extra)
	user := newUser(acct.uid, gid, extra)
	if err := checkGroups(user.Groups, group); err != nil {
		return User{}, err
	}
	return user, nil
}

// validateUser checks the fields that name users and groups. sc may be nil.
func validateUser(sc *runtimeapi.LinuxContainerSecurityContext) error {
	const in = "linux.security_context."
	if sc.GetRunAsUser() != nil && sc.GetRunAsUsername() != "" {
		return invalid(in+"run_as_username", "set together with run_as_user; set only one")
	}
	if sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil && sc.GetRunAsUsername() == "" {
		return invalid(in+"run_as_group", "set without run_as_user or run_as_username")
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

// userRequest returns the requested user: the security context's, else the
// image's, else root.
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

// findAccount looks a user up. A number is the uid, whatever the image's file
// says: the first line with that uid only adds the primary group and the name to
// look up memberships by.
func findAccount(want requestedUser, passwd []byte) (account, error) {
	id, isNumber, err := parseReference(want.field, want.user)
	if err != nil {
		return account{}, err
	}
	for fields := range lines(passwd, 4) {
		uid, uidOK := parseID(fields[2])
		gid, gidOK := parseID(fields[3])
		if !uidOK || !gidOK {
			continue
		}
		if isNumber && uid == id || !isNumber && fields[0] == want.user {
			return account{name: fields[0], uid: uid, gid: gid}, nil
		}
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
	id, isNumber, err := parseReference(want.field, want.group)
	if isNumber || err != nil {
		return id, err
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

// memberships returns the groups that list the user as a member.
func memberships(name string, group []byte) []int64 {
	if name == "" {
		return nil
	}
	var gids []int64
	for fields := range lines(group, 4) {
		gid, ok := parseID(fields[2])
		if ok && hasMember(fields[3], name) {
			gids = append(gids, gid)
		}
	}
	return gids
}

func hasMember(members, name string) bool {
	for member := range strings.SplitSeq(members, ",") {
		if member == name {
			return true
		}
	}
	return false
}

// checkGroups refuses groups that the process would not get. Docker, and then
// runc, look up every group of a process by name first, even the primary one and
// numbers: a group of the image whose name is that number would take its place.
// groups are sorted.
func checkGroups(groups []int64, file []byte) error {
	const field = "linux.security_context"
	if len(groups) > maxGroups {
		return invalid(field, "%d groups including those of the image; Linux allows %d", len(groups), maxGroups)
	}
	if n := bytes.Count(file, []byte("\n")) + 1; n > maxGroupLookups/len(groups) {
		return invalid(field, "%d groups are too many for the %d lines of the image's /etc/group", len(groups), n)
	}
	for fields := range lines(file, 1) {
		id, ok := parseID(fields[0])
		if !ok || fields[0] != strconv.FormatInt(id, 10) {
			continue
		}
		if _, wanted := slices.BinarySearch(groups, id); wanted && !hasID(fields, id) {
			return invalid(field, "group %d: Docker would use the group of that name in the image's /etc/group, which has another number", id)
		}
	}
	return nil
}

// hasID reports whether a line of /etc/group has this group number, as Docker
// reads it: text that is no number is 0, a number out of range is the largest or
// smallest there is.
func hasID(fields []string, want int64) bool {
	var gid int64
	if len(fields) > 2 {
		gid, _ = strconv.ParseInt(fields[2], 10, 64)
	}
	return gid == want
}

// lines yields the fields of each line that has at least n of them; everything
// after the fourth is one field. It skips comments, NIS entries and malformed
// lines, as libc does.
func lines(file []byte, n int) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for line := range bytes.Lines(file) {
			text := strings.TrimSpace(string(line))
			if text == "" || text[0] == '#' || text[0] == '+' || text[0] == '-' {
				continue
			}
			if fields := strings.SplitN(text, ":", 5); len(fields) >= n && !yield(fields) {
				return
			}
		}
	}
}

// newUser returns a User. extra must be sorted and unique.
func newUser(uid, gid int64, extra []int64) User {
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

// parseReference parses a user or group that a request or an image names by number
// or name. What Docker reads as a number, even with a sign or leading zeros, is
// never a name: if it is out of range, that is an error.
func parseReference(field, text string) (id int64, isNumber bool, err error) {
	id, err = strconv.ParseInt(text, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrSyntax):
		if strings.ContainsAny(text, ":\x00\n") || text != strings.TrimSpace(text) {
			return 0, false, invalid(field, "%q is neither a number nor a name", text)
		}
		return 0, false, nil
	case err != nil || !validID(id):
		return 0, true, invalid(field, "%s is not in 0..%d", text, maxID)
	}
	return id, true, nil
}

// parseID parses a user or group id; it returns false if s is not a valid one.
func parseID(s string) (int64, bool) {
	id, err := strconv.ParseInt(s, 10, 64)
	if err != nil || !validID(id) {
		return 0, false
	}
	return id, true
}

// sandboxUser returns Docker's user and groups for the pause process. Its image has
// no accounts, so only the request's numbers matter.
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
