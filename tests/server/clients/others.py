"""LiteLLM and LangChain against a server: python others.py http://127.0.0.1:8765/v1"""

import sys

import litellm
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

base = sys.argv[1]
talk = [{"role": "user", "content": "Hello!"}]

given = {
    "model": "openai/house/chat",
    "messages": talk,
    "api_base": base,
    "api_key": "none",
    "seed": 1,
}
said = litellm.completion(**given).choices[0].message.content
pieces = [
    chunk.choices[0].delta.content or "" for chunk in litellm.completion(**given, stream=True)
]
assert said and "".join(pieces) == said
vectors = litellm.embedding(
    model="openai/house/text", input=["a", "b"], api_base=base, api_key="none"
)
assert len(vectors.data) == 2

chat = ChatOpenAI(model="house/chat", base_url=base, api_key="none", seed=1)
assert chat.invoke("Hello!").content == said
assert "".join(chunk.content for chunk in chat.stream("Hello!")) == said
schema = {
    "title": "Place",
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
found = chat.with_structured_output(schema, method="json_schema").invoke("Where?")
assert found["city"] in ("Rome", "Oslo")
called = chat.bind_tools([schema | {"description": "A place."}], tool_choice="Place").invoke(
    "Where?"
)
assert called.tool_calls[0]["args"]["city"] in ("Rome", "Oslo")
embeddings = OpenAIEmbeddings(model="house/text", base_url=base, api_key="none")
assert len(embeddings.embed_documents(["a", "b"])) == 2  # sends token ids
print("ok")
