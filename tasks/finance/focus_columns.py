"""The columns of FOCUS that are used here, with their rules: the FinOps Open Cost and Usage Specification.

Each rule is one of the specification's normative requirements on the dataset "Cost and Usage" (repository
FinOps-Open-Cost-and-Usage-Spec/FOCUS_Spec, folder specification/datasets/cost_and_usage/columns, a file a column;
formats in specification/attributes). ``VERSIONS`` says which columns a version knows and demands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["string", "decimal", "datetime", "json"]
Level = Literal["mandatory", "conditional", "recommended", "deprecated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column.

    Attributes:
        level: Whether a dataset must have it; conditional ones depend on what the provider supports.
        nullable: Whether a row may leave it out.
        allowed: The only values, where they are listed.
        non_negative: Whether a number must not be below 0.
    """

    name: str
    kind: Kind
    level: Level
    nullable: bool
    allowed: tuple[str, ...] = ()
    non_negative: bool = False


CHARGE_CATEGORIES: Final = ("Usage", "Purchase", "Tax", "Credit", "Adjustment")
PRICING_CATEGORIES: Final = ("Standard", "Dynamic", "Committed", "Other")
SERVICE_CATEGORIES: Final = (
    *("AI and Machine Learning", "Analytics", "Business Applications", "Compute", "Databases", "Developer Tools"),
    *("Multicloud", "Identity", "Integration", "Internet of Things", "Management and Governance", "Media"),
    *("Migration", "Mobile", "Networking", "Security", "Storage", "Web", "Other"),
)
AI_SUBCATEGORIES: Final = (
    *("AI Platforms", "Bots", "Generative AI", "Machine Learning", "Natural Language Processing"),
    "Other (AI and Machine Learning)",
)


def _column(name: str, kind: Kind, level: Level, nullable: str = "", **rules: tuple[str, ...] | bool) -> Column:
    return Column(name=name, kind=kind, level=level, nullable=nullable == "null", **rules)  # type: ignore[arg-type]


_ALL: Final = (
    _column("BilledCost", "decimal", "mandatory"),
    _column("BillingAccountId", "string", "mandatory"),
    _column("BillingAccountName", "string", "mandatory", "null"),
    _column("BillingCurrency", "string", "mandatory"),
    _column("BillingPeriodEnd", "datetime", "mandatory"),
    _column("BillingPeriodStart", "datetime", "mandatory"),
    _column("ChargeCategory", "string", "mandatory", allowed=CHARGE_CATEGORIES),
    _column("ChargeClass", "string", "mandatory", "null", allowed=("Correction",)),
    _column("ChargeDescription", "string", "mandatory", "null"),
    _column("ChargeFrequency", "string", "recommended", allowed=("One-Time", "Recurring", "Usage-Based")),
    _column("ChargePeriodEnd", "datetime", "mandatory"),
    _column("ChargePeriodStart", "datetime", "mandatory"),
    _column("CommitmentDiscountStatus", "string", "conditional", "null", allowed=("Used", "Unused")),
    _column("ConsumedQuantity", "decimal", "conditional", "null"),
    _column("ConsumedUnit", "string", "conditional", "null"),
    _column("ContractedCost", "decimal", "mandatory"),
    _column("ContractedUnitPrice", "decimal", "conditional", "null", non_negative=True),
    _column("EffectiveCost", "decimal", "mandatory"),
    _column("HostProviderName", "string", "mandatory"),
    _column("InvoiceIssuerName", "string", "mandatory"),
    _column("ListCost", "decimal", "mandatory"),
    _column("ListUnitPrice", "decimal", "conditional", "null", non_negative=True),
    _column("PricingCategory", "string", "conditional", "null", allowed=PRICING_CATEGORIES),
    _column("PricingQuantity", "decimal", "mandatory", "null"),
    _column("PricingUnit", "string", "mandatory", "null"),
    _column("ProviderName", "string", "deprecated"),
    _column("PublisherName", "string", "deprecated"),
    _column("ServiceCategory", "string", "mandatory", allowed=SERVICE_CATEGORIES),
    _column("ServiceName", "string", "mandatory"),
    _column("ServiceProviderName", "string", "mandatory"),
    _column("ServiceSubcategory", "string", "recommended"),
    _column("SkuId", "string", "conditional", "null"),
    _column("SkuMeter", "string", "conditional", "null"),
    _column("SkuPriceDetails", "json", "conditional", "null"),
    _column("SkuPriceId", "string", "conditional", "null"),
    _column("SubAccountId", "string", "conditional", "null"),
    _column("SubAccountName", "string", "conditional", "null"),
    _column("Tags", "json", "conditional", "null"),
)
COLUMNS: Final = {column.name: column for column in _ALL}
OTHER_COLUMNS: Final = frozenset(
    {
        *("AllocatedMethodDetails", "AllocatedMethodId", "AllocatedResourceId", "AllocatedResourceName"),
        *("AllocatedTags", "AvailabilityZone", "BillingAccountType", "CapacityReservationId"),
        *("CapacityReservationStatus", "CommitmentDiscountCategory", "CommitmentDiscountId", "CommitmentDiscountName"),
        *("CommitmentDiscountQuantity", "CommitmentDiscountType", "CommitmentDiscountUnit"),
        *("CommitmentProgramEligibilityDetails", "ContractApplied", "CredentialDetails", "CredentialId"),
        *("InvoiceDetailId", "InvoiceId", "PricingCurrency", "PricingCurrencyContractedUnitPrice"),
        *("PricingCurrencyEffectiveCost", "PricingCurrencyListUnitPrice", "PrincipalId", "RegionId", "RegionName"),
        *("ResourceId", "ResourceName", "ResourceType", "SubAccountType"),
    }
)
"""Columns of the specification that are not written here; a file may have them, and nothing is asked of them."""
_SINCE_1_3: Final = frozenset({"ServiceProviderName", "HostProviderName"})
_SINCE_1_1: Final = frozenset({"ServiceSubcategory", "SkuMeter", "SkuPriceDetails"})
Version = Literal["1.0", "1.3", "1.4"]
VERSIONS: Final[dict[Version, tuple[frozenset[str], frozenset[str]]]] = {
    "1.0": (
        frozenset(COLUMNS) - _SINCE_1_3 - _SINCE_1_1,
        frozenset({name for name, column in COLUMNS.items() if column.level in {"mandatory", "deprecated"}})
        - _SINCE_1_3,
    ),
    "1.3": (
        frozenset(COLUMNS),
        frozenset({name for name, column in COLUMNS.items() if column.level in {"mandatory", "deprecated"}}),
    ),
    "1.4": (
        frozenset(name for name, column in COLUMNS.items() if column.level != "deprecated"),
        frozenset(name for name, column in COLUMNS.items() if column.level == "mandatory"),
    ),
}
"""What a version knows, and what it demands. 1.3 replaced ProviderName and PublisherName and still demands them."""
PRICED: Final = ("ListUnitPrice", "ContractedUnitPrice", "PricingQuantity", "PricingCategory", "SkuPriceId")
"""Null on a tax; not null on usage and purchases that correct nothing."""
PRODUCTS: Final = (("ListCost", "ListUnitPrice"), ("ContractedCost", "ContractedUnitPrice"))
"""A cost is its unit price times PricingQuantity, where both are there."""
TOGETHER: Final = (("PricingQuantity", "PricingUnit"), ("ConsumedQuantity", "ConsumedUnit"))
"""Both are null, or neither."""
