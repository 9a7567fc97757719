"""How agents are asked, whatever they are made with.

`invoke_agent(name, payload, context)` is what a step does. An adapter makes an agent of something
else; register one under a name and steps can use it:

    register_agent("classify", HttpAgent("https://agents.example/classify"))
    register_agent("classify", CommandAgent(["node", "classify.mjs"]))
    register_agent("classify", LangGraphAgent(graph))          # durable-monty[langgraph]
    register_agent("classify", StrandsAgent(make_agent))       # durable-monty[strands]
    register_agent("classify", PydanticAIAgent(agent))         # durable-monty[pydantic-ai]
"""

from durable_monty.agents import CommandAgent, HttpAgent, invoke_agent

__all__ = ["CommandAgent", "HttpAgent", "invoke_agent"]
