"""Memory over HTTP."""


def test_a_chat_remembers_if_it_is_asked_to(served):
    talk = [{"role": "user", "content": "My name is Pim and I live in Oslo."}]
    common = {"model": "house/chat", "max_tokens": 4, "seed": 1}
    served.post("/v1/chat/completions", messages=talk, **common)
    assert served.http.get("/v1/memories").json()["data"] == []
    asked = served.post("/v1/chat/completions", messages=talk, memory=True, **common)
    assert asked.status_code == 200
    name, home = served.http.get("/v1/memories").json()["data"]
    assert (name["key"], name["value"], home["value"]) == ("name", "Pim", "Oslo")
    assert name["quote"] == "My name is Pim"
    found = served.http.get("/v1/memories", params={"query": "Oslo"}).json()["turns"]
    assert [turn["text"] for turn in found] == [talk[0]["content"]]
    plain = served.post("/v1/chat/completions", messages=talk, **common).json()["usage"]
    told = served.post("/v1/chat/completions", messages=talk, memory=True, **common).json()["usage"]
    assert told["prompt_tokens"] > plain["prompt_tokens"]

    edited = served.post(f"/v1/memories/{home['id']}", value="Bergen").json()
    assert edited["value"] == "Bergen" and edited["quote"] is None
    assert served.http.get("/v1/memories", params={"query": "Oslo"}).json()["turns"] == []
    assert served.post("/v1/memories", key="pet", value="a cat").json()["key"] == "pet"
    gone = served.http.delete(f"/v1/memories/{edited['id']}").json()
    assert gone["deleted"] and len(served.http.get("/v1/memories").json()["data"]) == 2
    assert served.http.delete(f"/v1/memories/{edited['id']}").status_code == 404
    assert served.http.delete("/v1/memories").json()["deleted"] == 2
    assert served.http.get("/v1/memories").json()["data"] == []


def test_wrong_facts_are_refused(served):
    assert served.post("/v1/memories", key="", value="x").status_code == 400
    assert served.post("/v1/memories/7", value="x").status_code == 404
    assert served.http.delete("/v1/memories/99999999999999999999").status_code == 404
