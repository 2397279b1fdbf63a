"""The server: OpenAI's protocol over HTTP, answered by one worker process.

`app` speaks HTTP, `turns` decides who is next, `supervisor` keeps the worker alive, and `worker`
runs the model. starlette and uvicorn come with the extra ``[serve]``; only `app`, `guard`,
`server` and `protocol` import them.
"""
