"""The shop's vocabulary: each latent topic has words, so that a title or a query says what it is about.

Topics are styles that cross all domains: a user who likes `outdoor` likes hiking jackets and waterproof
speakers alike. Only plain letters, so that a text can stand in JSON as it is.
"""

from __future__ import annotations

DOMAINS = ("fashion", "beauty", "electronics", "home")
DEVICES = ("mobile", "desktop", "tablet")

# topic -> (English words, Chinese words)
TOPICS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "sport": (("running", "training", "fitness", "athletic", "gym"), ("运动", "跑步", "健身")),
    "outdoor": (("hiking", "camping", "trail", "waterproof", "mountain"), ("户外", "露营", "登山")),
    "luxury": (("elegant", "premium", "golden", "exclusive", "couture"), ("奢华", "高端", "精致")),
    "natural": (("organic", "bamboo", "vegan", "botanical", "herbal"), ("天然", "有机", "植物")),
    "minimal": (("minimalist", "plain", "nordic", "monochrome", "sleek"), ("简约", "素色", "北欧")),
    "retro": (("vintage", "classic", "nostalgic", "antique", "rustic"), ("复古", "经典", "怀旧")),
    "kids": (("kids", "playful", "cartoon", "toddler", "colourful"), ("儿童", "卡通", "亲子")),
    "party": (("glitter", "sequin", "neon", "festive", "disco"), ("派对", "闪亮", "节日")),
    "smart": (("smart", "wireless", "connected", "digital", "automatic"), ("智能", "无线", "数码")),
    "craft": (("handmade", "knitted", "embroidered", "artisan", "woven"), ("手工", "编织", "刺绣")),
}

# domain -> ((English noun, Chinese noun), ...): the categories
CATEGORIES: dict[str, tuple[tuple[str, str], ...]] = {
    "fashion": (
        ("dress", "连衣裙"), ("sneakers", "球鞋"), ("jacket", "夹克"),
        ("handbag", "手提包"), ("shirt", "衬衫"), ("hat", "帽子"),
    ),
    "beauty": (
        ("shampoo", "洗发水"), ("serum", "精华液"), ("lipstick", "口红"),
        ("perfume", "香水"), ("cream", "面霜"), ("soap", "香皂"),
    ),
    "electronics": (
        ("headphones", "耳机"), ("camera", "相机"), ("speaker", "音箱"),
        ("keyboard", "键盘"), ("watch", "手表"), ("charger", "充电器"),
    ),
    "home": (
        ("lamp", "台灯"), ("chair", "椅子"), ("rug", "地毯"),
        ("kettle", "水壶"), ("blanket", "毛毯"), ("vase", "花瓶"),
    ),
}  # fmt: skip

BRAND_SYLLABLES = ("Al", "Bor", "Cam", "Dor", "El", "Fen", "Gal", "Hal", "Iv", "Jun", "Kel", "Lor")
BRAND_ENDINGS = ("ano", "beck", "dale", "ex", "ford", "ia", "mont", "nova", "ora", "son")

# what people write: sentiment -> sentences about "{noun}"
REVIEWS: dict[str, tuple[str, ...]] = {
    "positive": (
        "I love this {noun}, excellent quality and worth every cent.",
        "Great {noun}, arrived quickly and works perfectly.",
        "非常满意，这款{noun}质量很好。",
    ),
    "neutral": (
        "The {noun} is okay for the price, nothing special.",
        "Average {noun}, it does what it says.",
        "这款{noun}一般，还可以。",
    ),
    "negative": (
        "Very disappointed, the {noun} broke after two days.",
        "Poor quality {noun}, not as described, do not buy.",
        "质量太差，{noun}很快就坏了。",
    ),
}

# intent -> (sentiment, sentences)
MESSAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "order_status": (
        "neutral",
        ("Where is my order with the {noun}?", "When will my {noun} be delivered?", "我的{noun}什么时候到？"),
    ),
    "return": (
        "negative",
        ("I want to return the {noun} and get my money back.", "The {noun} does not fit, how do I send it back?"),
    ),
    "complaint": (
        "negative",
        ("The {noun} arrived damaged, this is unacceptable.", "Wrong {noun} in the parcel, I am very unhappy."),
    ),
    "product_question": (
        "neutral",
        ("Is the {noun} available in another colour?", "Does the {noun} come with a guarantee?", "这款{noun}有其他颜色吗？"),
    ),
    "thanks": (
        "positive",
        ("Thank you for the quick help with my {noun}!", "Great service, the {noun} is wonderful, thanks."),
    ),
}  # fmt: skip
