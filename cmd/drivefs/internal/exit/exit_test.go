package exit

import "testing"

func TestMask(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"nothing secret here", "nothing secret here"},
		{"header Bearer Atza|IwEB-x_y was refused", "header [secret] was refused"},
		{`got {"access_token":"abc","refresh_token": "def"}`, `got {"[secret]","[secret]"}`},
		{"POST /token?client_secret=s3cr3t&grant_type=x", "POST /token?[secret]&grant_type=x"},
		{"HTTP status code=401, /?code=ANdNAVhyhqirUelHGEHA&state=1", "HTTP status code=401, /?[secret]&state=1"},
		{"https://s3.example/k?X-Amz-Signature=ff&X-Amz-Credential=aa", "https://s3.example/k?[secret]&[secret]"},
	} {
		if got := Mask(test.text); got != test.want {
			t.Errorf("%q became %q, want %q", test.text, got, test.want)
		}
	}
}
