package tree

import "testing"

func TestTemporary(t *testing.T) {
	for name, want := range map[string]bool{
		"film.mkv.part": true, "Unconfirmed 12345.crdownload": true, "lu1055134j6o.tmp": true, "LU.TMP": true,
		".~lock.a.odt#": true, ".doc.txt.swp": true, ".goutputstream-VHKCZ3": true, "doc~": true,
		".doc.txt.AbCdEf": true, ".x.123456": true, "db.kdbx.FyEGWR": true, ".fuse_hidden0001": true,
		"doc.txt": false, ".bashrc": false, ".AbCdEf": false, "photo.jpg.Backup": false, "a.tar.backup": false,
		"v1.2.MASTER": false, "notes.FyEGWR": false, "file.123.456789": false, "": false, ".": false, "tmp": false,
	} {
		if got := Temporary(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}
