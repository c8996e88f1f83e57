package cache

import "context"

// mirrorBegunAnew is told that the mirror was damaged and knows nothing but
// numbers now. Open lays the intents over it; when it happened in use, that is
// done here, and the feed is asked for everything soon.
func (s *Store) mirrorBegunAnew(aside string, err error) {
	s.events.add("mirror", "", "was damaged; set aside as "+aside+" and built anew")
	if s.mirror == nil {
		return
	}
	s.background.run(func(context.Context) {
		if err := s.tree.BindAgain(); err != nil {
			s.log.Warn("binding what is pending to its nodes again", "err", err)
		}
		if fn := s.intake.activity.Load(); fn != nil {
			(*fn)()
		}
	})
}
