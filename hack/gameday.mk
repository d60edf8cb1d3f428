# Game days. Included by the Makefile.

.PHONY: gameday

gameday: $(STAMP) ## Faults on a real node under real load, with Paramedic and without, then chaos; ARGS="bad-release --cap 60"
	@$(BIN)/python hack/gameday $(ARGS)
