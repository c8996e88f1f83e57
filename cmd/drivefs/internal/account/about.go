package account

import (
	"context"

	"github.com/drivefs/drivefs/drive"
)

// About is what `drivefs about --json` prints.
type About struct {
	Status     string      `json:"status"`
	TermsOfUse string      `json:"terms_of_use"`
	Quota      drive.Quota `json:"quota"`
	Usage      drive.Usage `json:"usage"`
}

// AskAbout asks the drive for it.
func AskAbout(ctx context.Context, client *drive.Client, _ struct{}) (a About, err error) {
	info, err := client.AccountInfo(ctx)
	if err != nil {
		return a, err
	}
	a.Status, a.TermsOfUse = info.Status, info.TermsOfUse
	if a.Quota, err = client.Quota(ctx); err != nil {
		return a, err
	}
	a.Usage, err = client.Usage(ctx)
	return a, err
}
