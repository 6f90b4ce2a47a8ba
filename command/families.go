package command

// families is the registry: one line for each file of commands.
func families() []*Command {
	var all []*Command
	for _, f := range []func() []*Command{
		helpCommands,
		languageCommands,
		aliasCommands,
		outputCommands,
		expressionCommands,
		typedCommands,
		typeCommands,
		localCommands,
		listCommands,
		memoryCommands,
		searchCommands,
		physicalCommands,
		transferCommands,
		codeCommands,
		executionCommands,
		filterCommands,
		breakpointCommands,
		registerCommands,
		stackCommands,
		moduleCommands,
		symbolCommands,
		nameCommands,
		sourceCommands,
		controlCommands,
		shareCommands,
		guardCommands,
		netCommands,
		extensionCommands,
	} {
		all = append(all, f()...)
	}
	return all
}
