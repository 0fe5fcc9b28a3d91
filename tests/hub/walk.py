"""What a reader does in the hub profile, start to end; the results as one line of JSON."""

import json
import warnings

import rrhelpers as rr

warnings.simplefilter("ignore")  # the tiny models' cut texts
papers = rr.load_papers()
model = rr.load_bi_encoder()
passages = papers["chunk"][:]
vectors = rr.encode(model, passages)
hits = rr.search(rr.encode(model, "what is rlhf?"), vectors, top_k=5)
scores = {
    role: [round(hit.score, 6) for hit in rr.rerank(rr.load_reranker(role), "what is rlhf?", hits, passages)]
    for role in ("reranker", "reranker-small", "reranker-large")
}
alike = rr.load_pair_scorer().predict([(passages[0], passages[1])])
sparse, late = rr.load_sparse_encoder(), rr.load_late_interaction()
kinds = {
    "pairs": [round(float(score), 6) for score in alike],
    "sparse": list(sparse.encode_document(passages).shape),
    "late": list(late.similarity(late.encode_query(["what is rlhf?"]), late.encode_document(passages)).shape),
}
science, found = rr.load_bi_encoder("science"), {}
for role in (None, "science-proximity", "science-query", "science-classification", "science-regression"):
    rr.use_adapter(science, role and rr.load_adapter(role))
    found[role or "none"] = [round(float(x), 4) for x in rr.encode(science, "what is rlhf ?")[:4]]
print(
    json.dumps(
        {
            "columns": papers.column_names,
            "rows": papers.num_rows,
            "limit": model.max_seq_length,
            "hits": [hit.corpus_id for hit in hits],
            "scores": scores,
            "kinds": kinds,
            "science": found,
            "pooling": science[1].pooling_mode,
        }
    )
)
