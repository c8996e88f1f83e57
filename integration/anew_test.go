package integration

import "testing"

// TestProgramsThatReplace: "A program that removes a file and at once makes a
// new one in its place (install, git, tar, `cp --remove-destination`) replaces
// its content: it stays the same file on the drive".
func TestProgramsThatReplace(t *testing.T) {
	need(t, "git")
	p := newProc(t, nil, "--upload-delay", "1h")
	p.sh(`git init -q -b main repo && cd repo && git config user.email a@b && git config user.name a && echo one > doc && git add doc && git commit -qm 1
		echo two > doc && git commit -qam 2`)
	for _, how := range []struct{ name, script, want string }{
		{"install", `echo installed > ../src; install -m 600 ../src repo/doc`, "installed\n"},
		{"git checkout", `cd repo && git checkout -q -f HEAD~1`, "one\n"},
		{"tar x", `mkdir ../t && echo packed > ../t/doc && tar c -C ../t doc | tar x -C repo`, "packed\n"},
		{"cp --remove-destination", `echo copied > ../src; cp --remove-destination ../src repo/doc`, "copied\n"},
		{"git stash", `cd repo && git stash -q`, "one\n"},
	} {
		p.flush()
		before, err := p.other.Lookup("/repo/doc")
		if err != nil {
			t.Fatal(err)
		}
		trashed := map[string]bool{}
		for _, n := range p.other.TrashList() {
			trashed[n.ID] = true
		}
		p.sh(how.script)
		p.flush()
		after, err := p.other.Lookup("/repo/doc")
		if err != nil {
			t.Fatal(err)
		}
		if after.ID != before.ID {
			t.Errorf("%s: the document is another node", how.name)
		}
		if b, err := p.other.ReadFile("/repo/doc"); err != nil || string(b) != how.want {
			t.Errorf("%s: the drive has %q, want %q (%v)", how.name, b, how.want, err)
		}
		for _, n := range p.other.TrashList() {
			if n.Name == "doc" && !trashed[n.ID] {
				t.Errorf("%s: in the trash", how.name)
			}
		}
	}
}
